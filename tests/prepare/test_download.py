"""download.py against a server on the loopback that can break off, ignore ranges, and send the wrong thing."""

import hashlib
from types import SimpleNamespace

import pytest
from folders import error_message, write
from web_server import online, packed

from s4former.prepare import download
from s4former.prepare.download import Archive, fetch, unpack

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of tmp_path/web, at server.url."""
    with online(monkeypatch, tmp_path / "web") as server:
        yield server


@pytest.fixture
def archive(server, tmp_path):
    (tmp_path / "web" / "a.tar").write_bytes(CONTENT)
    return Archive(url=f"{server.url}/a.tar", size=len(CONTENT), md5=hashlib.md5(CONTENT).hexdigest())


def test_a_download_is_verified_and_gets_its_name_last(archive, server, tmp_path):
    path = fetch(archive, tmp_path / "here")
    assert path == tmp_path / "here" / "a.tar" and path.read_bytes() == CONTENT
    assert [each.name for each in path.parent.iterdir()] == ["a.tar"]


def test_what_is_there_already_is_not_fetched_again(archive, server, tmp_path):
    fetch(archive, tmp_path)
    fetch(archive, tmp_path)
    assert len(server.asked) == 1


def test_a_connection_that_breaks_is_taken_up_where_it_broke(archive, server, tmp_path):
    server.troubles = [1000, 0, 5000]
    assert fetch(archive, tmp_path).read_bytes() == CONTENT
    assert [start for _, start in server.asked] == [0, 1000, 1000, 6000]


def test_a_download_that_stays_broken_goes_on_with_the_next_command(archive, server, tmp_path):
    server.troubles = [1000] + [0] * 5
    assert error_message(fetch, archive, tmp_path) == (
        f"the download of {archive.url} ended after 1,000 of 10,240 bytes (peer closed connection without sending complete message"
        f" body (received 0 bytes, expected 9240)); run the command again and it goes on, or download the file elsewhere"
        f" and put it into {tmp_path}"
    )
    server.asked.clear()
    assert fetch(archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == [("/a.tar", 1000)]


def test_a_server_without_ranges_sends_everything_again(archive, server, tmp_path):
    server.ranges, server.troubles = False, [1000]
    assert fetch(archive, tmp_path).read_bytes() == CONTENT


def test_a_wrong_digest_is_refused_and_kept_aside(archive, server, tmp_path):
    (tmp_path / "web" / "a.tar").write_bytes(CONTENT[::-1])
    assert error_message(fetch, archive, tmp_path) == (
        f"what {archive.url} sent has the MD5 {hashlib.md5(CONTENT[::-1]).hexdigest()}; it must be {archive.md5}; it is"
        f" kept as {tmp_path}/a.tar.wrong; run the command again, or use a mirror"
    )
    assert (tmp_path / "a.tar.wrong").read_bytes() == CONTENT[::-1] and not (tmp_path / "a.tar").exists()


def test_a_file_of_the_user_with_the_wrong_size_is_refused_and_left_alone(archive, server, tmp_path):
    (tmp_path / "a.tar").write_bytes(CONTENT[:10])
    assert error_message(fetch, archive, tmp_path) == (
        f"{tmp_path}/a.tar has 10 bytes; it must have 10,240; move it away, or, if its download broke off, rename it to a.tar.part"
    )
    assert (tmp_path / "a.tar").exists() and not server.asked


def test_a_server_that_refuses_or_is_not_there_is_said_in_words(archive, server, tmp_path):
    gone = Archive(url=f"{server.url}/gone.tar", size=10)
    message = error_message(fetch, gone, tmp_path)
    assert message.startswith(f"the download of {server.url}/gone.tar ended after 0 of 10 bytes (") and "404" in message
    silent = Archive(url="http://127.0.0.1:9/a.tar", size=10)
    assert "ended after 0 of 10 bytes ([Errno 111] Connection refused)" in error_message(fetch, silent, tmp_path)


def test_the_disk_is_looked_at_first(archive, server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5 * 2**20))
    huge = Archive(url=archive.url, size=2 * 2**30)
    assert error_message(fetch, huge, tmp_path) == (
        f"a.tar and what is in it need 4.00 GiB in {tmp_path}, but 5.0 MiB are free; make room, or use another disk with"
        " --root"
    )
    assert not server.asked


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_unpacking_writes_over_what_an_interruption_left(tmp_path, name):
    archive = packed(tmp_path / name, {"x/a.txt": b"aa", "x/y/b.txt": b"bbbb"})
    out = tmp_path / "out"
    write(out / "x" / "y" / "b.txt", "b")  # cut short
    unpack(archive, out)
    assert (out / "x" / "a.txt").read_bytes() == b"aa" and (out / "x" / "y" / "b.txt").read_bytes() == b"bbbb"


def test_no_member_leads_out_of_the_folder(tmp_path):
    out = tmp_path / "deep" / "out"
    message = error_message(unpack, packed(tmp_path / "a.tar", {"../outside.txt": b"x"}), out)
    assert message.startswith(f"{tmp_path}/a.tar cannot be unpacked: '../outside.txt' would be extracted to ")
    unpack(packed(tmp_path / "a.zip", {"../outside.txt": b"x"}), out)
    assert not (tmp_path / "deep" / "outside.txt").exists() and (out / "outside.txt").exists()


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_a_damaged_archive_is_said_in_words(tmp_path, name):
    archive = packed(tmp_path / name, {"x/a.txt": bytes(range(256)) * 9})
    content = bytearray(archive.read_bytes())
    content[100:120] = b"?" * 20
    archive.write_bytes(content if name == "a.zip" else content[:130])
    message = error_message(unpack, archive, tmp_path / "out")
    assert message.startswith(f"{archive} cannot be unpacked: ")
    assert message.endswith("; move it away and download it again")
