"""Archives: fetched so that an interrupted download goes on, verified by size and digest, and unpacked once.

Nothing counts as there before it is verified: a download grows as NAME.part and gets its name when size and digest
agree. What turns out wrong is kept aside as NAME.wrong.
"""

import gzip
import hashlib
import http.client
import lzma
import shutil
import ssl
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from tqdm import tqdm

from ..errors import DataError

BLOCK = 1 << 20  # bytes read at a time
ATTEMPTS = 5  # connections that may break off without a byte of progress
SILENCE = 60  # seconds without a byte after which a connection counts as broken
LARGEST_TEXT = 1 << 23  # bytes; the longest published list is a hundredth of it
PAUSE = 2.0  # seconds before a broken connection is tried again
BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, gzip.BadGzipFile)


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file that somebody publishes."""

    url: str
    size: int  # bytes
    md5: str = ""  # "" = not known
    unpacked: int = 0  # bytes that its contents take

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


# ---- fetching


def fetch(archive: Archive, folder: Path) -> Path:
    """The verified file of an archive in `folder`, downloaded as far as it is not there yet."""
    path, part = folder / archive.name, folder / f"{archive.name}.part"
    if path.is_file():
        return verified(path, archive)
    folder.mkdir(parents=True, exist_ok=True)
    have = size_of(part)
    check_space(folder, archive.size - have + archive.unpacked, f"{archive.name} and what is in it")
    print(f"downloading {archive.url} to {folder}" + (f", going on after {in_words(have)}" if have else ""))
    left, complete = ATTEMPTS, have >= archive.size
    while not complete:
        reason = "the connection was closed early"
        try:
            complete = append(archive, part)
        except urllib.error.HTTPError as error:
            raise DataError(refusal(archive.url, error)) from None
        except BROKEN as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        have, before = size_of(part), have
        left = ATTEMPTS if have > before else left - 1
        if not complete and not left:
            raise DataError(
                f"the download of {archive.url} broke off after {in_words(have)} of {in_words(archive.size)}"
                f" ({reason}); run the command again and it goes on from there"
            )
        if not complete:
            time.sleep(PAUSE)
    verified(part, archive)
    return part.rename(path)


def append(archive: Archive, part: Path) -> bool:
    """Lets the file `part` grow until the connection ends; whether the server had no more to send.

    A server that does not know ranges sends everything, so the file then begins anew.
    """
    have = size_of(part)
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=SILENCE) as answer:
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        start, length = have if goes_on else 0, int(answer.headers.get("Content-Length") or 0)
        with (
            part.open("ab" if goes_on else "wb") as file,
            tqdm(initial=start, total=start + length or None, unit="B", unit_scale=True, desc=archive.name) as bar,
        ):
            while block := answer.read(BLOCK):
                file.write(block)
                bar.update(len(block))
            return not length or file.tell() == start + length


def verified(path: Path, archive: Archive) -> Path:
    """`path`, if it has the size and digest that are published; a wrong download is set aside.

    Raises:
        DataError: says size or digest as it is and as it must be.
    """
    size, wrong = path.stat().st_size, ""
    if size != archive.size:
        wrong = f"has {size:,} bytes; it must have {archive.size:,}"
    elif archive.md5 and (found := md5_of(path)) != archive.md5:
        wrong = f"has the MD5 {found}; it must be {archive.md5}"
    if not wrong:
        return path
    if path.suffix != ".part":
        short = size < archive.size
        repair = f"if the download broke off, rename it to {archive.name}.part and it goes on; else move it away"
        raise DataError(f"{path} {wrong}; {repair if short else 'move it away, or download it again'}")
    aside = path.with_suffix(".wrong")
    path.replace(aside)
    raise DataError(f"what {archive.url} sent {wrong}; it is kept as {aside}; run the command again, or use a mirror")


def size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def md5_of(path: Path) -> str:
    with (
        path.open("rb") as file,
        tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=f"MD5 of {path.name}", leave=False) as bar,
    ):
        digest = hashlib.md5(usedforsecurity=False)
        while block := file.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def text_at(url: str) -> str | None:
    """A short text from the web; None if there is no such file (404)."""
    try:
        with urllib.request.urlopen(url, timeout=SILENCE) as answer:
            return answer.read(LARGEST_TEXT).decode()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 404:
            return None
        raise DataError(refusal(url, error)) from None
    except (*BROKEN, ValueError) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise DataError(f"{url} cannot be read: {reason}; check the address and the connection") from None


def refusal(url: str, error: urllib.error.HTTPError) -> str:
    error.close()
    return f"the server refuses {url}: {error.code} {error.reason}; download the file elsewhere and put it in place"


# ---- space


def check_space(folder: Path, size: int, what: str) -> None:
    """`DataError` if the disk of `folder` has not `size` bytes free."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{what} need {in_words(size)} in {folder}, but {in_words(free)} are free; make room, or use another disk"
            " with --root"
        )


def in_words(size: int) -> str:
    """'1.86 GiB': bytes as people read them."""
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


# ---- unpacking


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(path: Path, folder: Path) -> None:
    """Unpacks a tar or zip archive; what is there in its full size already is passed over, so it can be interrupted.

    Raises:
        DataError: if the archive is damaged or none, leads out of the folder, or has not room enough there.
    """
    try:
        with zipfile.ZipFile(path) if zipfile.is_zipfile(path) else tarfile.open(path) as archive:
            members = [each for each in members_of(archive) if size_of(folder / each.name) != each.size]
            folder.mkdir(parents=True, exist_ok=True)
            check_space(folder, sum(member.size for member in members), f"the contents of {path.name}")
            for member in tqdm(members, desc=f"unpacking {path.name}", unit=" files"):
                extract(member, folder, path)
    except DAMAGED as error:
        raise DataError(f"{path} cannot be unpacked: {error}; move it away and download it again") from None


def members_of(archive: zipfile.ZipFile | tarfile.TarFile) -> list[Member]:
    """The files of an archive; folders come with them, and links are left out."""
    if isinstance(archive, zipfile.ZipFile):
        files = (each for each in archive.infolist() if not each.is_dir())
        return [Member(each.filename, each.file_size, partial(archive.open, each)) for each in files]
    return [Member(each.name, each.size, partial(archive.extractfile, each)) for each in archive if each.isfile()]


def extract(member: Member, folder: Path, archive: Path) -> None:
    """Writes one file beside its place and renames it, so that a file that is there is whole."""
    target = folder / member.name
    if not target.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{archive} holds {member.name!r}, which leads out of {folder}; get it from its publisher")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with member.open() as source, part.open("wb") as file:
        shutil.copyfileobj(source, file, BLOCK)
    part.replace(target)
