"""Files of the Hugging Face hub at pinned revisions: fetched once, checked by sha256, then read from the cache.

The hub's own client talks, so what it knows holds here: HF_ENDPOINT (a mirror), HTTPS_PROXY, HF_HOME (the cache),
HF_TOKEN, HF_HUB_OFFLINE. Other than the client, a download that broke off goes on where it stopped in a later process
too: weights have some 6 GB.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hermesflow.artifacts import sha256
from hermesflow.errors import ConfigError, FetchError, HermesflowError, is_disk_full
from hermesflow.sections import Source


def fetch(source: Source) -> Path:
    """Folder with all files of a source, fetched where they are not in the cache yet; checksums are looked at anew.

    Raises:
        ConfigError: revision or a checksum is not pinned.
        FetchError: a file cannot be had, or is not the pinned one.
    """
    if source.folder is not None:
        return _local_folder(source, Path(source.folder))
    if source.revision is None or None in source.files.values():
        raise ConfigError(
            f"{source.repo}: revision and sha256 of {', '.join(source.files)} are not all pinned. Run `hermesflow "
            "fetch --pin --config FILE` and put the lines it prints into the config."
        )
    folder = Path()
    for name, pin in source.files.items():
        path = _cached(source, name) or _download(source, name)
        found = sha256(path)
        if found != pin:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            raise FetchError(
                f"{_place(source, name)}: its sha256 is {found}, but the config pins {pin}; the copy was deleted. Give "
                "the same command again. If it differs again, the pin or the mirror (HF_ENDPOINT) is wrong."
            )
        folder = path.parents[len(Path(name).parts) - 1]
    return folder


def pin(source: Source) -> Source:
    """The same source with revision and checksums filled in, as the hub (or the folder) has them now.

    Raises:
        FetchError: the hub cannot be asked, or a file is not there.
    """
    if source.folder is not None:
        folder = _local_folder(dataclasses.replace(source, files=dict.fromkeys(source.files)), Path(source.folder))
        return dataclasses.replace(source, files={name: sha256(folder / name) for name in source.files})
    from huggingface_hub import HfApi

    with _explained(source, ", ".join(source.files)):
        info = HfApi().model_info(str(source.repo), revision=source.revision or "main", files_metadata=True)
    sums = {s.rfilename: s.lfs.sha256 if s.lfs else None for s in info.siblings or []}
    source = dataclasses.replace(source, revision=info.sha)
    files: dict[str, str | None] = {}
    for name, known in source.files.items():
        if name not in sums:
            raise FetchError(f"{_place(source, name)}: no such file. Correct `files`; there are {sorted(sums)}.")
        # only large files carry their sha256; the others are fetched
        files[name] = known or sums[name] or sha256(_cached(source, name) or _download(source, name))
    return dataclasses.replace(source, files=files)


def _local_folder(source: Source, folder: Path) -> Path:
    for name, pin in source.files.items():
        path = folder / name
        if not path.is_file():
            raise FetchError(f"{path}: no such file. Correct `folder` or `files`, or put it there.")
        if pin is not None and (found := sha256(path)) != pin:
            raise FetchError(
                f"{path}: its sha256 is {found}, but the config pins {pin}. Put the pinned file there, or correct the "
                "pin if the change is meant."
            )
    return folder


def _cached(source: Source, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    with _explained(source, name):
        found = try_to_load_from_cache(str(source.repo), name, revision=source.revision)
    return Path(found) if isinstance(found, str) else None


def _download(source: Source, name: str) -> Path:
    """Fill the client's cache, going on from what an earlier process left, and let the client link it."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    repo, headers = str(source.repo), {**build_hf_headers(), "Accept-Encoding": "identity"}
    with _explained(source, name):
        url = hf_hub_url(repo, name, revision=source.revision)
        facts = get_hf_file_metadata(url)
        if facts.etag is None:
            raise FetchError(f"{url}: the answer has no ETag, so this is no hub. Correct HF_ENDPOINT or the proxy.")
        store = repo_folder_name(repo_id=repo, repo_type="model")
        blob = Path(constants.HF_HUB_CACHE) / store / "blobs" / facts.etag
        lock = Path(constants.HF_HUB_CACHE) / ".locks" / store / f"{facts.etag}.lock"  # the client's own
        for path in (blob, lock):
            path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if not blob.exists():
                partial = blob.with_name(f"{facts.etag}.incomplete")
                if facts.size is not None and partial.exists() and partial.stat().st_size > facts.size:
                    partial.unlink()
                with partial.open("ab") as file:
                    http_get(url, file, resume_size=file.tell(), headers=headers, expected_size=facts.size)
                os.replace(partial, blob)
        return Path(hf_hub_download(repo, name, revision=source.revision))


@contextmanager
def _explained(source: Source, name: str) -> Iterator[None]:
    """Turn the client's errors into one paragraph with the mend."""
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except HermesflowError:
        raise
    except (HTTPError, OSError, ValueError) as error:
        if is_disk_full(error):
            raise
        raise FetchError(f"{_place(source, name)}: {_explanation(error, str(source.repo))}") from error


def _explanation(error: Exception, repo: str) -> str:
    from huggingface_hub import constants, errors

    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    if isinstance(error, errors.GatedRepoError):
        return (
            f"the repository is gated. Accept its terms at {hub}/{repo}, set HF_TOKEN to a token of that account "
            "(or run `hf auth login`), and give the same command again."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{hub} has no such repository, or it is private. Correct `repo`, or set HF_TOKEN to a token that may read."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return "no such revision. Set it to null and run `hermesflow fetch --pin` to see the newest one."
    if isinstance(error, errors.EntryNotFoundError) and isinstance(error, errors.HfHubHTTPError):
        return "no such file at this revision. Correct `files`, or `revision`."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return (
            f"not in the cache ({cache}), and HF_HUB_OFFLINE forbids fetching. Run `hermesflow fetch` where there is a "
            "network and copy the cache here (HF_HOME names its folder), or let `folder` name a folder with the file."
        )
    if isinstance(error, errors.HFValidationError):
        return f"this is not how repositories are named ({error}). Correct `repo`: `owner/name`."
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"{hub} refuses access ({error.response.status_code}). Set HF_TOKEN to a token that may read it."
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be stored in {cache} ({error}). Make that folder writable, or let HF_HOME name another one."
    reason = " ".join(str(error).split()) or type(error).__name__
    return (
        f"cannot be fetched from {hub} ({reason}). Check the network, the proxy (HTTPS_PROXY) and HF_ENDPOINT, and "
        "give the same command again: what has arrived is kept. Without a network, let `folder` name one with the file."
    )


def _place(source: Source, name: str) -> str:
    return f"{source.repo} at {source.revision or 'main'}, {name}"
