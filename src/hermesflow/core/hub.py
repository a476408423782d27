"""Files of the Hugging Face hub at pinned revisions: fetched, checked by sha256, errors with the mend.

The hub's own client talks, so what it knows holds here: HF_ENDPOINT (a mirror), HTTPS_PROXY, HF_HOME (the cache),
HF_TOKEN, HF_HUB_OFFLINE. Other than the client, a download that broke off goes on where it stopped in a later process
too: weights have some 6 GB, a shard of images more.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hermesflow.core.errors import ConfigError, FetchError, HermesflowError, is_disk_full
from hermesflow.core.files import sha256
from hermesflow.core.section import Source

_PIN = "run `hermesflow fetch --pin --config FILE` and put the lines it prints into the config"
_SIGN_IN = "set HF_TOKEN to a token that may read it (or run `hf auth login`)"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Repository:
    """One repository on the hub at one revision."""

    name: str
    kind: Literal["model", "dataset"]
    revision: str | None
    """A commit; None is the newest one, which is only asked about, never read."""

    def __str__(self) -> str:
        return f"{self.name} at {self.revision or 'main'}"

    @property
    def key(self) -> str:
        """What the config calls this."""
        return "`repo`" if self.kind == "model" else "`data.path`"


def fetch(source: Source) -> Path:
    """Folder with all files of a source, fetched where they are not in the cache yet; checksums are looked at anew.

    Raises:
        ConfigError: revision or a checksum is not pinned.
        FetchError: a file cannot be had, or is not the pinned one.
    """
    if source.folder is not None:
        return _local_folder(source, Path(source.folder))
    if source.revision is None or None in source.files.values():
        files = ", ".join(source.files)
        raise ConfigError(f"{source.repo}: revision and sha256 of {files} are not all pinned: {_PIN}.")
    repository, folder = _repository(source), Path()
    for name, pin in source.files.items():
        path = _cached(repository, name) or _download(repository, name)
        _check(path, pin, f"{repository}, {name}", "the config pins")
        folder = path.parents[len(Path(name).parts) - 1]
    return folder


def open_dataset(name: str, revision: str | None) -> Repository:
    """A dataset repository at its pinned commit.

    Raises:
        ConfigError: it is not pinned.
    """
    if revision is None:
        raise ConfigError(f"{name}: data.revision is not pinned, and this is no folder here: {_PIN}.")
    return Repository(name, "dataset", revision)


def fetch_file(repository: Repository, name: str, folder: Path) -> Path:
    """Download one file into a folder, unless it is there already, and compare its sha256 with the hub's.

    Args:
        repository: where it is.
        name: path in the repository.
        folder: the file lands under it by that path.

    Raises:
        FetchError: no access, no such file, no connection, or other bytes than the hub states.
    """
    path = folder / name
    with explained(repository, name):
        url, facts = _facts(repository, name)
        stated = facts.etag if _SHA256.fullmatch(facts.etag) else None  # small files have git's hash instead
        if path.exists():
            if stated is not None and sha256(path) == stated:
                return path
            path.unlink()
        _stream(url, facts, path, lock=folder / ".locks" / f"{facts.etag}.lock")
    if stated is not None:
        _check(path, stated, f"{repository}, {name}", "the hub states")
    return path


def pin(source: Source) -> Source:
    """The same source with revision and checksums filled in, as the hub (or the folder) has them now.

    Raises:
        FetchError: the hub cannot be asked, or a file is not there.
    """
    if source.folder is not None:
        folder = _local_folder(_with_files(source, dict.fromkeys(source.files)), Path(source.folder))
        return _with_files(source, {name: sha256(folder / name) for name in source.files})
    repository = _repository(source)
    info = _info(repository, ", ".join(source.files))
    sums = {s.rfilename: s.lfs.sha256 if s.lfs else None for s in info.siblings or []}
    repository = dataclasses.replace(repository, revision=info.sha)
    files: dict[str, str | None] = {}
    for name, known in source.files.items():
        if name not in sums:
            raise FetchError(f"{repository}, {name}: no such file. Correct `files`; there are {sorted(sums)}.")
        # only large files carry their sha256; the others are fetched
        files[name] = known or sums[name] or sha256(_cached(repository, name) or _download(repository, name))
    return _with_files(source, files, revision=info.sha)


def _with_files(source: Source, files: Mapping[str, str | None], **changes: Any) -> Source:
    return dataclasses.replace(source, files=dict(files), **changes)


def newest(repository: Repository) -> str:
    """The commit a repository's revision, or its main branch, stands at now.

    Raises:
        FetchError: the hub cannot be asked.
    """
    return str(_info(repository, "its commit").sha)


@contextmanager
def explained(repository: Repository, what: str) -> Iterator[None]:
    """Turn the client's errors into one paragraph with the mend.

    Raises:
        FetchError: in place of any error of the client.
    """
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except HermesflowError:
        raise
    except (HTTPError, OSError, ValueError) as error:
        if is_disk_full(error):
            raise
        raise FetchError(f"{repository}, {what}: {_explanation(error, repository)}") from error


def _repository(source: Source) -> Repository:
    return Repository(str(source.repo), "model", source.revision)


def _local_folder(source: Source, folder: Path) -> Path:
    for name, pin in source.files.items():
        path = folder / name
        if not path.is_file():
            raise FetchError(f"{path}: no such file. Correct `folder` or `files`, or put it there.")
        if pin is not None and (digest := sha256(path)) != pin:
            raise FetchError(
                f"{path}: its sha256 is {digest}, but the config pins {pin}. Put the pinned file there, or correct the "
                "pin if the change is meant."
            )
    return folder


def _check(path: Path, expected: str | None, place: str, says: str) -> None:
    digest = sha256(path)
    if digest != expected:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise FetchError(
            f"{place}: its sha256 is {digest}, but {says} {expected}; the copy was deleted. Give the same command "
            "again. If it differs again, the pin, a proxy or the mirror (HF_ENDPOINT) is wrong."
        )


def _info(repository: Repository, what: str) -> Any:
    from huggingface_hub import HfApi

    with explained(repository, what):
        revision = repository.revision or "main"
        return HfApi().repo_info(repository.name, repo_type=repository.kind, revision=revision, files_metadata=True)


def _cached(repository: Repository, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    with explained(repository, name):
        path = try_to_load_from_cache(repository.name, name, revision=repository.revision)
    return Path(path) if isinstance(path, str) else None


def _download(repository: Repository, name: str) -> Path:
    """Fill the client's cache and let the client link the file."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.file_download import repo_folder_name

    with explained(repository, name):
        url, facts = _facts(repository, name)
        cache, store = Path(constants.HF_HUB_CACHE), repo_folder_name(repo_id=repository.name, repo_type="model")
        lock = cache / ".locks" / store / f"{facts.etag}.lock"  # the client's own
        _stream(url, facts, cache / store / "blobs" / facts.etag, lock=lock)
        return Path(hf_hub_download(repository.name, name, revision=repository.revision))


def _facts(repository: Repository, name: str) -> tuple[str, Any]:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repository.name, name, repo_type=repository.kind, revision=repository.revision)
    facts = get_hf_file_metadata(url)
    if facts.etag is None:
        raise FetchError(f"{url}: the answer has no ETag, so this is no hub. Correct HF_ENDPOINT or the proxy.")
    return url, facts


def _stream(url: str, facts: Any, target: Path, *, lock: Path) -> None:
    """Download a file unless it is there, going on from what an earlier process left beside it."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    for path in (target, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if target.exists():
            return
        partial = target.with_name(f"{facts.etag}.incomplete")
        if facts.size is not None and partial.exists() and partial.stat().st_size > facts.size:
            partial.unlink()
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        with partial.open("ab") as file:
            http_get(url, file, resume_size=file.tell(), headers=headers, expected_size=facts.size)
        os.replace(partial, target)


def _explanation(error: Exception, repository: Repository) -> str:
    from huggingface_hub import constants, errors

    hub, cache, key = constants.ENDPOINT, constants.HF_HUB_CACHE, repository.key
    status = f" (HTTP {error.response.status_code})" if isinstance(error, errors.HfHubHTTPError) else ""
    if isinstance(error, errors.GatedRepoError):
        page = f"{hub}/{'datasets/' if repository.kind == 'dataset' else ''}{repository.name}"
        return (
            f"the repository is gated{status}. Accept its terms at {page} in a browser, then {_SIGN_IN} and give the "
            "same command again."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{hub} has no such repository, or it is private{status}. Correct {key}, or {_SIGN_IN}."
    if isinstance(error, errors.RevisionNotFoundError):
        return "no such revision. Set it to null and run `hermesflow fetch --pin` to see the newest one."
    if isinstance(error, errors.EntryNotFoundError) and isinstance(error, errors.HfHubHTTPError):
        files = "`files`" if repository.kind == "model" else "data.shards"
        return f"no such file at this revision. Correct {files}, or the revision."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return (
            f"not in the cache ({cache}), and HF_HUB_OFFLINE forbids fetching. Run `hermesflow fetch` where there is a "
            f"network and copy the cache here (HF_HOME names its folder), or {_local_copy(repository)}."
        )
    if isinstance(error, errors.HFValidationError):
        return f"this is not how repositories are named ({error}). Correct {key}: `owner/name`, or a folder."
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"{hub} refuses access{status}. To get in, {_SIGN_IN}."
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be stored ({error}). Make its folder writable; HF_HOME names that of the cache ({cache})."
    reason = " ".join(str(error).split()) or type(error).__name__
    return (
        f"cannot be fetched from {hub} ({reason}). Check the network, the proxy (HTTPS_PROXY) and HF_ENDPOINT, and "
        f"give the same command again: what has arrived is kept. Without a network, {_local_copy(repository)}."
    )


def _local_copy(repository: Repository) -> str:
    return f"let {'`folder`' if repository.kind == 'model' else 'data.path'} name a folder with a local copy"
