"""Small benchmarks in the form of the hub's data sets, local tasks that read them, and a tiny checkpoint."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import lmms_eval.tasks
import pytest
import torch
import yaml
from datasets import Dataset, Features, Image, Sequence, Value
from PIL import Image as Images

from hermesflow.config.benchmarks import Benchmarks, Understanding
from hermesflow.config.sections import ImageTokenizer
from hermesflow.evaluation.lmms.answering import Pictures, Stopping, answers
from hermesflow.evaluation.lmms.running import TASKS
from hermesflow.models.backbone import load_codec, load_model
from hermesflow.models.showo.codec import ShowOCodec
from hermesflow.models.showo.magvit import MagVitV2
from hermesflow.models.showo.model import Shape, ShowO
from hermesflow.models.text_tokenizers import word_tokenizer
from hermesflow.stages import understand

SHIPPED = Path(lmms_eval.tasks.__file__).parent
STRING = Value("string")
SHORT = "\nAnswer the question using a single word or phrase."
"""What the tasks put behind a question."""
TOKENIZER = ImageTokenizer(
    channels=8,
    encoder_multipliers=(1, 2),
    encoder_blocks=(1, 1),
    decoder_multipliers=(1, 2),
    decoder_blocks=(1, 1),
    codebook_bits=4,
    patch_size=4,
    norm_groups=4,
)
SIDE = 24
"""Pixels per side: 3 x 3 tokens of 8 pixels."""
WORDS = ["Yes.", "No.", "yes", "no", "A", "B", "C", "D", "red", "a", "dog", "two", "3"]
SHAPE = Shape(
    hidden_size=32,
    layers=2,
    heads=2,
    intermediate_size=64,
    partial_rotary_factor=0.5,
    rope_theta=1e4,
    layer_norm_eps=1e-5,
    max_text_tokens=32,
    num_image_tokens=9,
    codebook_size=16,
)


def picture(number):
    """A picture unlike all others, wider than high."""
    noise = torch.randint(256, (30, 40, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
    return Images.fromarray(noise.numpy())


def encoded(number):
    file = io.BytesIO()
    picture(number).save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": None}


def checkpoint(folder):
    """Random weights, large enough that answers differ from picture to picture; most begin with yes or no."""
    generator = torch.Generator().manual_seed(0)
    model = ShowO(SHAPE, word_tokenizer(WORDS), caption_prompt="a dog", question_template="a {} red")
    tokenizer = MagVitV2(TOKENIZER)
    with torch.no_grad():
        for parameter in [*model.parameters(), *tokenizer.parameters()]:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.3 if parameter.ndim > 1 else parameter + noise * 0.1)
        yes_and_no = [row[0] for row in model.tokenizer.encode(WORDS[:4])]
        model.showo.lm_head.bias[yes_and_no] += 1.5
    model.save(folder / "model")
    ShowOCodec(tokenizer.eval(), SIDE).save(folder / "tokenizer")


class Oracle:
    """What the checkpoint says, asked without lmms-eval."""

    def __init__(self, folder):
        self.model = load_model(folder / "model", device="cpu")
        self.pictures = Pictures(load_codec(folder / "tokenizer", device="cpu"))

    def says(self, number, question, tokens=16):
        (digest,) = self.pictures.add([picture(number)])
        return answers(self.model, self.pictures.seen, [digest], [question], Stopping(tokens, ("\n\n",)))[0]


def write_task(folder, name, shipped, split, rows, features, **changes):
    """A data set as parquet, and a task that is the shipped one but for where its data lie."""
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=Features(features)).to_parquet(folder / f"{name}.parquet")
    task = {
        "include": str(SHIPPED / shipped),
        "task": f"{name}_local",
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(folder / f"{name}.parquet")}},
        **changes,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))


def pope(folder, name, rows):
    """Rows of (question id, picture, answer)."""
    features = dict.fromkeys(("id", "question_id", "question", "answer", "image_source", "category"), STRING)
    split = {"pope_random": "random", "pope_pop": "popular", "pope_adv": "adversarial"}[name]
    made = [
        {
            "id": str(i),
            "question_id": str(key),
            "question": f"Is there a dog {key} in the image?",
            "answer": answer,
            "image_source": f"COCO_val2014_{shown:012}",
            "category": split,
            "image": encoded(shown),
        }
        for i, (key, shown, answer) in enumerate(rows)
    ]
    write_task(folder, name, f"pope/{name}.yaml", split, made, {**features, "image": Image()})


def mme(folder, rows):
    """Rows of (category, picture, answer); two per picture."""
    features = {name: STRING for name in ("question_id", "question", "answer", "category")}
    made = [
        {
            "question_id": f"{category}/{shown}.png",
            "image": encoded(shown),
            "question": f"Is it red {i}? Please answer yes or no.",
            "answer": answer,
            "category": category,
        }
        for i, (category, shown, answer) in enumerate(rows)
    ]
    write_task(folder, "mme", "mme/mme.yaml", "test", made, {**features, "image": Image()})


def flickr(folder, rows):
    """Rows of (picture, captions)."""
    features = {"caption": Sequence(STRING), "sentids": Sequence(STRING), "img_id": STRING, "filename": STRING}
    made = [
        {
            "image": encoded(shown),
            "caption": captions,
            "sentids": [str(5 * shown + i) for i in range(len(captions))],
            "img_id": str(shown),
            "filename": f"{1000 + shown}.jpg",
        }
        for shown, captions in rows
    ]
    # CIDEr alone for both: the shipped flickr30k_test differs in seven more figures, which take Java a minute
    own, features = TASKS / "flickr30k_karpathy.yaml", {**features, "image": Image()}
    write_task(folder, "flickr30k_test", own, "test", made, features, process_docs=None)
    write_task(folder, "flickr30k_karpathy", own, "test", made, features)


def vqav2(folder, rows):
    """Rows of (question id, picture, ten answers or none)."""
    answer = {"answer": STRING, "answer_confidence": STRING, "answer_id": Value("int64")}
    features = {
        **dict.fromkeys(("question_type", "multiple_choice_answer", "answer_type", "question"), STRING),
        "answers": [answer],
        "image_id": Value("int64"),
        "question_id": Value("int64"),
        "image": Image(),
    }
    for split, part in (("val", [r for r in rows if r[2]]), ("test", [r for r in rows if not r[2]])):
        made = [
            {
                "question_type": "what",
                "multiple_choice_answer": (answers or [None])[0],
                "answers": [
                    {"answer": a, "answer_confidence": "yes", "answer_id": i}
                    for i, a in enumerate(answers or [], start=1)
                ]
                or None,
                "image_id": shown,
                "answer_type": "other",
                "question_id": key,
                "question": f"What is {key}?",
                "image": encoded(shown),
            }
            for key, shown, answers in part
        ]
        name = {"val": "validation", "test": "test"}[split]
        write_task(folder, f"vqav2_{split}", f"vqav2/vqav2_{split}.yaml", name, made, features)


def gqa(folder, rows):
    """Rows of (question id, picture, answer); pictures lie in a table of their own."""
    features = dict.fromkeys(("id", "imageId", "question", "answer", "fullAnswer"), STRING)
    made = [
        {
            "id": key,
            "imageId": f"n{shown}",
            "question": f"What is {key}?",
            "answer": answer,
            "fullAnswer": f"It is {answer}.",
        }
        for key, shown, answer in rows
    ]
    images = [{"id": f"n{shown}", "image": encoded(shown)} for shown in sorted({row[1] for row in rows})]
    Dataset.from_list(images, features=Features({"id": STRING, "image": Image()})).to_parquet(
        folder / "gqa_images.parquet"
    )
    write_task(folder, "gqa", "gqa/gqa.yaml", "testdev", made, features, process_docs=None)
    (folder / "gqa_join.py").write_text(
        "from pathlib import Path\n"
        "from datasets import load_dataset\n"
        "def join(docs):\n"
        "    path = Path(__file__).parent / 'gqa_images.parquet'\n"
        "    rows = load_dataset('parquet', data_files=str(path), split='train')\n"
        "    images = {row['id']: row['image'] for row in rows}\n"
        "    return docs.map(lambda doc: {'image': images[doc['imageId']]})\n"
    )
    path = folder / "gqa.yaml"
    path.write_text(path.read_text().replace("process_docs: null", "process_docs: !function gqa_join.join"))


def mmmu(folder, rows):
    """Rows of (id, pictures, question type, options, answer)."""
    text = ("id", "question", "options", "explanation", "img_type", "answer", "topic_difficulty", "question_type")
    features = {**dict.fromkeys((*text, "subfield"), STRING), **{f"image_{i}": Image() for i in range(1, 8)}}
    made = [
        {
            **dict.fromkeys(features),
            "id": key,
            "question": " ".join(f"<image {i}>" for i in range(1, len(shown) + 1)) + " What is it?",
            "options": str(options),
            "answer": answer,
            "question_type": kind,
            **{f"image_{i}": encoded(number) for i, number in enumerate(shown, start=1)},
        }
        for key, shown, kind, options, answer in rows
    ]
    write_task(folder, "mmmu_val", "mmmu/mmmu_val.yaml", "validation", made, features)


def understood(config, layout, home, *, batch_size):
    """Folder of column pope of `base`, by stage `understand` on the tasks that lie in `home`."""
    tasks, cache = str(home / "tasks"), str(home / "cache")
    own = Understanding(columns=("pope",), batch_size=batch_size, python=sys.executable, tasks=tasks, cache=cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        config = replace(config, benchmarks=Benchmarks(understanding=own))
        understand.run(config, layout, seed=0, checkpoint="base", benchmark="pope")
    return layout.benchmark(0, "base", "pope")
