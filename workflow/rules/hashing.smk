# Snakemake reads an input anew for each output of the job that took it, however large, and after `dvc checkout` (all files
# have new times) every input of every job. Here a file is read once as long as it stays the same one, and a large result
# not at all: what was written with it holds its digest.
import hashlib
from functools import cache

from snakemake.io import _IOFile


@cache
def digest_once(path, *state):
    """Digest of a file as long as its inode, size and time are those."""
    return (content_digest if path.is_relative_to(ROOT.parent) else sha256)(path)


def read_once(checksum):
    """Snakemake's checksum of a file, by `digest_once` where it is a sha256 of a local one."""

    async def told(file, threshold=None, force=False, algorithm=None):
        if force or file.is_storage or algorithm not in (None, "sha256", hashlib.sha256):
            return await checksum(file, threshold, force, algorithm)
        if not await file.is_checksum_eligible(threshold):
            return None
        stat = os.stat(file.file)
        return f"sha256:{digest_once(Path(file.file), stat.st_ino, stat.st_size, stat.st_mtime_ns)}"

    return told


_IOFile.checksum = read_once(_IOFile.checksum)
