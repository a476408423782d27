"""Files of dataset repositories on the Hugging Face hub: fetched by its own client, checked, and errors with the mend.

The client takes up a broken connection by itself; it does not compare what came with the sha256 that the hub states.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hermesflow.artifacts import sha256
from hermesflow.errors import DataError

_SIGN_IN = (
    "sign in here with `hf auth login` or set HF_TOKEN to a token of that account that may read gated repositories"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class HubDataset:
    """One dataset repository at one commit."""

    repository: str
    """Hub id, `owner/name`."""
    commit: str
    """Full commit id, so that all files are of one version."""

    def fetch(self, name: str, folder: Path) -> Path:
        """Download a file, unless it is there already, and compare its sha256 with the hub's.

        Args:
            name: path in the repository.
            folder: files land under it by their path in the repository.

        Raises:
            DataError: no access, no such file, no connection, or other bytes than the hub states.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        where = {"repo_id": self.repository, "repo_type": "dataset", "revision": self.commit}
        with mended(self.repository, name):
            stated = get_hf_file_metadata(hf_hub_url(filename=name, **where)).etag  # type: ignore[arg-type]
            path = Path(hf_hub_download(filename=name, local_dir=folder, **where))  # type: ignore[call-overload]
        if stated and _SHA256.fullmatch(stated) and (found := sha256(path)) != stated:
            path.unlink()
            raise DataError(
                f"{self.repository}: {name} came with sha256 {found}, but the hub states {stated}. The damaged file "
                "was removed; run again to fetch it anew. If it comes back, a proxy or mirror on the way (HF_ENDPOINT) "
                "changes it."
            )
        return path


def open_dataset(repository: str, revision: str) -> HubDataset:
    """Resolve a branch, tag or commit.

    Raises:
        DataError: no access, no such repository or revision, or no connection.
    """
    from huggingface_hub import HfApi

    with mended(repository, f"revision {revision}"):
        found = HfApi().dataset_info(repository, revision=revision).sha
    assert found is not None  # the hub always states it
    return HubDataset(repository, found)


@contextmanager
def mended(repository: str, what: str) -> Iterator[None]:
    """Turn errors of the hub's client into one paragraph that says what to do.

    Raises:
        DataError: in place of any error of the client.
    """
    import httpx2

    try:
        yield
    except (OSError, ValueError, httpx2.TransportError) as error:  # the client's errors are one of them
        text = _about_access(error, repository, what) or _about_transfer(error, repository, what)
        if text is None:
            raise
        raise DataError(text) from error


def _about_access(error: Exception, repository: str, what: str) -> str | None:
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return (
            f"{repository} is gated ({_status(error)}): open https://huggingface.co/datasets/{repository} in a "
            f"browser, accept its terms with your account, then {_SIGN_IN}, and run again. Or let "
            "data.path name a local copy."
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{repository}: the hub shows you no such dataset ({_status(error)}). Correct data.path; if it is private "
            f"or gated, {_SIGN_IN}."
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repository}: has no {what}. Correct data.revision."
    if isinstance(error, HFValidationError):
        return f"data.path `{repository}` is neither a folder here nor a hub id `owner/name`. Correct it."
    return None


def _about_transfer(error: Exception, repository: str, what: str) -> str | None:
    import httpx2
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, (LocalEntryNotFoundError, httpx2.TransportError)):
        return (
            f"{repository}: {what} could not be fetched to its end ({type(error).__name__}: {error}). Check the "
            "network, then run again: what is finished is not fetched again. Without network access, let data.path "
            "name a local copy."
        )
    if isinstance(error, EntryNotFoundError):
        return f"{repository}: has no file {what} at this revision. Correct data.shards or data.revision."
    if isinstance(error, HfHubHTTPError):
        return (
            f"{repository}: the hub refused {what} ({_status(error)}). With 401 or 403, {_SIGN_IN}; with 429 or 5xx, "
            "wait and run again."
        )
    if "Consistency check failed" in str(error):
        return f"{repository}: {what} came with the wrong size. Run again to fetch it anew. ({error})"
    return None


def _status(error: object) -> str:
    response = getattr(error, "response", None)
    return f"HTTP {response.status_code}" if response is not None else type(error).__name__
