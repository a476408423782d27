"""How every section of a config file is declared, and the one that says where files come from."""

from __future__ import annotations

from typing import Annotated, TypeVar, dataclass_transform

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

Revision = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
AnyOrder = AfterValidator(lambda values: type(values)(sorted(values.items() if isinstance(values, dict) else values)))
"""Of values whose order means nothing: they are kept sorted, so that another order is not another config."""
_STRICT = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)
_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def section(cls: type[_T]) -> type[_T]:
    """A frozen part of the config with keyword arguments alone; unknown keys and wrong types are refused."""
    return dataclass(frozen=True, kw_only=True, config=_STRICT)(cls)  # type: ignore[return-value]


@section
class Source:
    """Files of a Hugging Face repository at one revision. `hermesflow fetch --pin` prints revision and checksums."""

    repo: str | None = None
    """Repository on the hub, `owner/name`."""
    revision: Revision | None = None
    """Commit, 40 hex digits; nothing is fetched from the hub without one."""
    folder: str | None = None
    """Read the files from this folder instead of the hub."""
    files: Annotated[dict[str, Sha256 | None], Field(min_length=1), AnyOrder]
    """Every file that is needed and its sha256; nothing is fetched from the hub without one."""

    @model_validator(mode="after")
    def _has_an_origin(self) -> Source:
        if self.repo is None and self.folder is None:
            raise ValueError("name a `repo` on the hub or a local `folder`")
        return self
