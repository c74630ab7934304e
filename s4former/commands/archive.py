"""An archive of finished runs: a .jsonl.gz file with one record a line, every line a gzip member of its own.

Concatenated members are one valid gzip file, so a record is added without compressing those before it again.
"""

import fcntl
import gzip
import json
import os
import zlib
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_bytes


class ArchiveError(UserError):
    """A file that is not an archive of runs; the message says which and why."""


def read_archive(path: Path) -> list[dict[str, Any]]:
    """The records of an archive, oldest first; none if there is no such file."""
    try:
        return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    except FileNotFoundError:
        return []
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise ArchiveError(f"{path} is not an archive of runs, or is damaged: {error}") from None


def append(path: Path, record: dict[str, Any]) -> bool:
    """Adds a record, unless one with its study, method and key is there; returns whether it was added.

    Safe beside other processes that append to the same file; on the disk when it returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.parent, os.O_RDONLY)  # of the folder, since the file is replaced
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if any(identity(record) == identity(other) for other in read_archive(path)):
            return False
        before = path.read_bytes() if path.exists() else b""
        write_bytes(path, before + gzip.compress(json.dumps(record, separators=(",", ":")).encode() + b"\n", 9, mtime=0))
    finally:
        os.close(lock)
    return True


def identity(record: dict[str, Any]) -> tuple[str, ...]:
    return record["study"], record["method"], record["key"]
