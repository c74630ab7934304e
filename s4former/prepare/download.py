"""Archives: downloads that resume, verified by size and MD5, and unpacked.

A download grows as NAME.part and is renamed when size and MD5 agree. A wrong one is kept as NAME.wrong.
"""

import gzip
import hashlib
import lzma
import shutil
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from ..data.progress import progress
from ..errors import DataError, gibibytes
from ..networks.hub import HUB_ERRORS, first_line

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


def fetch(archive: Archive, folder: Path) -> Path:
    """The verified file of an archive in `folder`, downloaded as far as it is not there yet."""
    from huggingface_hub.file_download import http_get  # goes on where a connection broke; any server will do

    path, part = folder / archive.name, folder / f"{archive.name}.part"
    if path.is_file():
        return verified(path, archive)
    folder.mkdir(parents=True, exist_ok=True)
    need = 2 * archive.size - size_of(part)  # what is in it takes about as much again: pictures are compressed already
    if need > (free := shutil.disk_usage(folder).free):
        raise DataError(
            f"{archive.name} and what is in it need {gibibytes(need)} in {folder}, but {gibibytes(free)} are free; make"
            " room, or use another disk with --root"
        )
    print(f"downloading {archive.url} to {folder}")
    try:
        with part.open("ab") as file:
            http_get(archive.url, file, resume_size=file.tell(), expected_size=archive.size)
    except HUB_ERRORS as error:
        if (have := size_of(part)) < archive.size:
            raise DataError(
                f"the download of {archive.url} ended after {have:,} of {archive.size:,} bytes ({first_line(error)});"
                f" run the command again and it goes on, or download the file elsewhere and put it into {folder}"
            ) from None
    return verified(part, archive).rename(path)


def verified(path: Path, archive: Archive) -> Path:
    """`path`, if it has the published size and MD5; `DataError` else, and a wrong download is set aside."""
    size, wrong = size_of(path), ""
    if archive.size and size != archive.size:
        wrong = f"has {size:,} bytes; it must have {archive.size:,}"
    elif archive.md5:
        print(f"verifying {path}")
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        wrong = f"has the MD5 {md5}; it must be {archive.md5}" if md5 != archive.md5 else ""
    if not wrong:
        return path
    if path.suffix != ".part":
        raise DataError(f"{path} {wrong}; move it away, or, if its download broke off, rename it to {archive.name}.part")
    aside = path.replace(path.with_suffix(".wrong"))
    raise DataError(f"what {archive.url} sent {wrong}; it is kept as {aside}; run the command again, or use a mirror")


def size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def unpack(path: Path, folder: Path) -> None:
    """Unpacks a tar or zip archive over what is there; no file is written outside of `folder`."""
    try:
        with zipfile.ZipFile(path) if zipfile.is_zipfile(path) else tarfile.open(path) as archive:
            archive.extraction_filter = tarfile.data_filter  # of a tar; a zip leaves ".." out by itself
            members = archive.infolist() if isinstance(archive, zipfile.ZipFile) else archive.getmembers()
            for member in progress(members, f"unpacking {path.name}"):
                archive.extract(member, folder)
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{path} cannot be unpacked: {error}; move it away and download it again") from None
