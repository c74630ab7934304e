"""A web server on the loopback that can break off and ignore ranges, and the archives it may send."""

import functools
import io
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from huggingface_hub import constants, file_download


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder; `server.troubles` says for each request to come after how many bytes it breaks off."""

    def do_GET(self):
        path = self.translate_path(self.path)
        start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if self.server.ranges else 0
        self.server.asked.append((self.path, start))
        try:
            with open(path, "rb") as file:
                content = file.read()[start:]
        except OSError:
            return self.send_error(404)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{start + len(content)}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        most = self.server.troubles.pop(0) if self.server.troubles else len(content)
        self.wfile.write(content[:most])
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@contextmanager
def serving(folder):
    """A server of a folder, at server.url."""
    folder.mkdir(exist_ok=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        server.troubles, server.asked, server.ranges = [], [], True
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@contextmanager
def online(monkeypatch, folder):
    """`serving`, for downloads that ask nobody else and do not wait before they try again."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    with serving(folder) as server:
        yield server


def packed(path, files):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path
