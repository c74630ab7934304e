"""Atomic writing: files and folders are written beside their place, flushed to the disk, and renamed."""

import codecs
import difflib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .errors import DataError, WriteError, describe_os_error, find_os_error, gibibytes


def read_text(path: Path) -> str:
    """The content of a text file, with or without a byte order mark; `DataError` if it is none."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        return content.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no text in UTF-8 (byte {error.start + 1} is {content[error.start]:#04x}, as in Windows-1252 or in no text);"
            " save it as UTF-8"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read as text: {error.strerror}") from None


def similar_path(missing: str | Path) -> str:
    """'did you mean runs/s4_after?' for a path that is not there; empty where nothing has a similar name, or it is there."""
    path = Path(missing)
    first = next((each for each in (*reversed(path.parents), path) if not each.exists()), None)
    if first is None or not first.parent.is_dir() or not os.access(first.parent, os.R_OK):
        return ""
    close = difflib.get_close_matches(first.name, os.listdir(first.parent), n=1)
    return f"did you mean {first.parent / close[0] / path.relative_to(first)}?" if close else ""


@contextmanager
def writing(target: Path, beside: Path, size: int = 0) -> Iterator[None]:
    """Removes `beside` if writing it fails, and raises a `WriteError`; size: bytes, for the message, 0 = unknown."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        cause = find_os_error(error)
        if cause is None:
            raise
        if beside.is_file():
            beside.unlink()
        shutil.rmtree(beside, ignore_errors=True)
        what = f"{target} ({gibibytes(size)})" if size else str(target)
        raise WriteError(f"{what} could not be written: {describe_os_error(cause, target)}") from error


@contextmanager
def writing_file(path: Path) -> Iterator[Path]:
    """A name beside a file, of this call alone, which takes its place once it is written; a `WriteError` leaves the older one."""
    beside = path.with_name(f".writing-{uuid.uuid4().hex[:8]}-{path.name}")
    with writing(path, beside):
        yield beside
        beside.replace(path)


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """fsync of a file or folder; file systems that cannot do it for folders (some network ones) are let be."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)


def replace_folder(beside: Path, target: Path) -> None:
    """Puts a finished folder in the place of an older one; whenever the process is killed, one of the two is there."""
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


def recover_replaced_folders(folder: Path) -> None:
    """Gives their names back to folders that an interrupted `replace_folder` had moved aside."""
    for old in folder.glob(".old-*"):
        target = old.with_name(old.name.removeprefix(".old-"))
        if not target.exists():
            old.rename(target)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    with writing_file(path) as beside:
        beside.write_bytes(content)
        flush(beside)
