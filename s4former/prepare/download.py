"""Archives: downloads that resume, verified by size and MD5, and unpacked once.

A download grows as NAME.part and is renamed when size and MD5 agree. A wrong one is kept as NAME.wrong.
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
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..data.progress import progress
from ..errors import DataError, gibibytes

BLOCK = 1 << 20  # bytes read at a time
ATTEMPTS = 5  # connections that may break off without a byte of progress
TIMEOUT = 60  # seconds without a byte after which a connection counts as broken
PAUSE = 2.0  # seconds before a broken connection is tried again
CONNECTION_ERRORS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
ARCHIVE_ERRORS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, gzip.BadGzipFile)


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A published file. Without a size it is not fetched here: `url` is then its name, and `page` says where it is."""

    url: str
    size: int = 0  # bytes
    md5: str = ""  # "" = not known
    page: str = ""

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


# ---- downloading


def fetch(archive: Archive, folder: Path) -> Path:
    """The verified file of an archive in `folder`, downloaded as far as it is not there yet."""
    path, part = folder / archive.name, folder / f"{archive.name}.part"
    if path.is_file():
        return verified(path, archive)
    folder.mkdir(parents=True, exist_ok=True)
    # what is in it takes about as much again: pictures are compressed already
    check_space(folder, 2 * archive.size - size_of(part), f"{archive.name} and what is in it")
    print(f"downloading {archive.url} to {folder}")
    attempts, reason = ATTEMPTS, ""
    while (have := size_of(part)) < archive.size:
        if reason:
            time.sleep(PAUSE)
        reason = "the connection was closed early"
        try:
            append(archive, part)
        except urllib.error.HTTPError as error:
            error.close()
            refusal = f"the server refuses {archive.url}: {error.code} {error.reason}"
            raise DataError(f"{refusal}; download the file elsewhere and put it in place") from None
        except CONNECTION_ERRORS as error:
            reason = reason_of(error)
        attempts = ATTEMPTS if size_of(part) > have else attempts - 1
        if not attempts:
            raise DataError(
                f"the download of {archive.url} broke off after {have:,} of {archive.size:,} bytes ({reason}); run the"
                " command again and it goes on from there"
            )
    verified(part, archive)
    return part.rename(path)


def append(archive: Archive, part: Path) -> None:
    """Continues the file `part` until the connection ends; it begins anew if the server ignores ranges."""
    have = size_of(part)
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        have = have if answer.headers.get("Content-Range", "").startswith(f"bytes {have}-") else 0
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(initial=have, total=archive.size, unit="B", unit_scale=True, desc=archive.name) as bar,
        ):
            while block := answer.read(BLOCK):
                file.write(block)
                bar.update(len(block))


def verified(path: Path, archive: Archive) -> Path:
    """`path`, if it has the published size and MD5; `DataError` else, and a wrong download is set aside."""
    size, wrong = size_of(path), ""
    if archive.size and size != archive.size:
        wrong = f"has {size:,} bytes; it must have {archive.size:,}"
    elif archive.md5:
        print(f"verifying {path}")
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if md5 != archive.md5:
            wrong = f"has the MD5 {md5}; it must be {archive.md5}"
    if not wrong:
        return path
    if path.suffix != ".part":
        resumable = f"if the download broke off, rename it to {archive.name}.part and it goes on; else move it away"
        raise DataError(f"{path} {wrong}; {resumable if size < archive.size else 'move it away, or download it again'}")
    aside = path.replace(path.with_suffix(".wrong"))
    raise DataError(f"what {archive.url} sent {wrong}; it is kept as {aside}; run the command again, or use a mirror")


def size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def reason_of(error: Exception) -> str:
    return str(getattr(error, "reason", error)) or type(error).__name__


# ---- unpacking


def check_space(folder: Path, size: int, what: str) -> None:
    """`DataError` if the disk of `folder` has not `size` bytes free."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{what} need {gibibytes(size)} in {folder}, but {gibibytes(free)} are free; make room, or use another disk"
            " with --root"
        )


def unpack(path: Path, folder: Path) -> None:
    """Unpacks a tar or zip archive, links aside. Files that are there in full size are kept, so it can be interrupted.

    Raises:
        DataError: the archive is damaged, leads out of the folder, or does not fit on the disk.
    """
    try:
        with zipfile.ZipFile(path) if zipfile.is_zipfile(path) else tarfile.open(path) as archive:
            if isinstance(archive, zipfile.ZipFile):
                files = [(each.filename, each.file_size, each) for each in archive.infolist() if not each.is_dir()]
            else:
                archive.extraction_filter = tarfile.data_filter
                files = [(each.name, each.size, each) for each in archive if each.isfile()]
            files = [file for file in files if size_of(folder / file[0]) != file[1]]
            folder.mkdir(parents=True, exist_ok=True)
            check_space(folder, sum(size for _, size, _ in files), f"the contents of {path.name}")
            for name, _, member in progress(files, f"unpacking {path.name}"):
                if not (folder / name).resolve().is_relative_to(folder.resolve()):
                    raise DataError(f"{path} holds {name!r}, which leads out of {folder}; get it from its publisher")
                archive.extract(member, folder)
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{path} cannot be unpacked: {error}; move it away and download it again") from None
