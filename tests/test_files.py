import errno
import os

import pytest

from s4former import files


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
