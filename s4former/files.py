"""Files and folders that are whole or not there: written beside their place, flushed, and renamed."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .errors import WriteError, gibibytes, refusal, with_way_out


@contextmanager
def writing(target: Path, beside: Path, size: int = 0) -> Iterator[None]:
    """While something is written beside its place: if that fails, what there is of it goes, and a `WriteError` says why.

    size: bytes that are to be written, for the message; 0 = unknown.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        cause = refusal(error)
        if cause is None:
            raise
        if beside.is_file():
            beside.unlink()
        shutil.rmtree(beside, ignore_errors=True)
        what = f"{target} ({gibibytes(size)})" if size else str(target)
        raise WriteError(f"{what} could not be written: {with_way_out(cause, target)}") from error


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Makes sure that a file or folder entry is on the disk and not only on its way there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(beside: Path, target: Path) -> None:
    """Puts a finished folder in the place of an older one; at every moment one of the two is there under some name."""
    old = target.with_name(f".old-{target.name}")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    try:
        beside.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def put_back(folder: Path) -> None:
    """Gives its name back to what `replace_folder` had moved aside when the run was killed between its two renames."""
    for old in folder.glob(".old-*"):
        target = old.with_name(old.name.removeprefix(".old-"))
        if not target.exists():
            old.rename(target)


def write_text(path: Path, text: str) -> None:
    """A text file that is either the old or the new one, never half of it."""
    beside = path.with_name(f".writing-{path.name}")
    with writing(path, beside):
        beside.write_text(text)
        flush(beside)
        beside.replace(path)
