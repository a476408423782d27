import pytest
from pydantic import TypeAdapter, ValidationError

from hermesflow.config.judges import AnyJudge, Endpoint, LocalVlm

READER = TypeAdapter(AnyJudge)
ENDPOINT = {
    "kind": "endpoint",
    "base_url": "https://api.openai.com/v1",
    "model": "gpt-4o-2024-08-06",
    "key_variable": "OPENAI_API_KEY",
    "cache": "results/.judge",
    "pace": {"requests_per_minute": 500, "concurrency": 8},
    "prices": {"input": 2.5, "output": 10, "image_tokens": 255},
}


def read(plain):
    import json

    return READER.validate_json(json.dumps(plain))


def test_the_kind_chooses_the_class():
    assert isinstance(read(ENDPOINT), Endpoint)
    assert isinstance(read({"kind": "local", "model": "weights/judge", "cache": "results/.judge"}), LocalVlm)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dtype": "float32"}, "dtype"),
        ({"pace": {"requests_per_minute": 0, "concurrency": 8}}, "greater than 0"),
        ({"prices": {"input": -1, "output": 10, "image_tokens": 255}}, "greater than or equal to 0"),
        ({"detail": "highest"}, "low"),
    ],
)
def test_wrong_keys_and_values_are_refused(change, told):
    with pytest.raises(ValidationError, match=told):
        read({**ENDPOINT, **change})


def test_every_key_says_what_it_is():
    schema = READER.json_schema()["$defs"]
    silent = [
        f"{name}.{key}"
        for name in ("Endpoint", "LocalVlm", "Pace", "Prices")
        for key, value in schema[name]["properties"].items()
        if "description" not in value
    ]
    assert not silent
