import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from s4former import files
from s4former.errors import DataError, WriteError
from s4former.files import read_text, writing_file


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_folder_that_cannot_be_flushed_is_no_failure_but_a_file_is(tmp_path, monkeypatch, code):
    def refuse(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    files.flush(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=os.strerror(code)):
        files.flush(tmp_path / "file")


def test_a_disk_error_of_a_folder_is_a_failure(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        files.flush(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_are_read_with_or_without_a_byte_order_mark(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("grün\r\nrot\r\n".encode(encoding))
    assert read_text(tmp_path / "a.txt") == "grün\nrot\n"


def test_a_text_in_another_encoding_is_a_sentence(tmp_path):
    (tmp_path / "a.txt").write_bytes("grün".encode("cp1252"))
    with pytest.raises(DataError) as caught:
        read_text(tmp_path / "a.txt")
    assert str(caught.value) == (
        f"{tmp_path}/a.txt is no text in UTF-8 (byte 3 is 0xfc, as in Windows-1252 or in no text); save it as UTF-8"
    )


def test_a_file_that_fails_half_way_leaves_the_old_one_and_nothing_beside_it(tmp_path):
    (tmp_path / "a.png").write_text("old")
    with pytest.raises(WriteError, match="a.png could not be written: full"), files.writing_file(tmp_path / "a.png") as beside:
        beside.write_text("half")
        raise OSError(errno.ENOSPC, "full")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_threads_may_write_the_same_file(tmp_path):
    def write(number):
        with writing_file(tmp_path / "a") as beside:
            beside.write_text(str(number))
            barrier.wait()

    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
