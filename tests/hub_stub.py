"""A Hub on the loopback: what huggingface_hub asks when it creates a repository and uploads a folder (Xet off).

    with Hub() as hub:           # speaks at hub.address from a thread
        hub.troubles = [("create", 500)]
        ...                      # HF_ENDPOINT=hub.address HF_TOKEN=hub.token HF_HUB_DISABLE_XET=1
        hub.repositories["someone/model"]["README.md"]

`troubles` has one entry for every push to come: None, or where and how it goes wrong. The place is a key of `ROUTES` or
'any'; the manner a status, 'drop' (the connection is closed without an answer), 'silence' (no answer for `patience`
seconds) or 'page' (a web page instead of JSON). What is uploaded must have the size and SHA-256 it was announced with.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = r"(?P<model>[\w.-]+/[\w.-]+)"
ROUTES = {
    "create": ("POST", r"/api/repos/create"),
    "card": ("POST", r"/api/validate-yaml"),
    "info": ("GET", rf"/api/models/{MODEL}"),
    "preupload": ("POST", rf"/api/models/{MODEL}/preupload/main"),
    "batch": ("POST", rf"/{MODEL}\.git/info/lfs/objects/batch"),
    "put": ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})"),
    "verify": ("POST", r"/lfs/verify"),
    "commit": ("POST", rf"/api/models/{MODEL}/commit/main"),
}


class Hub:
    token = "hf_dummy"
    patience = 5.0  # seconds that a silent Hub holds a connection

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.commits: list[tuple[str, str, set[str]]] = []  # model, message, paths
        self.requests: list[str] = []  # routes, in order
        self.troubles: list[tuple[str, int | str] | None] = []
        self.trouble: tuple[str, int | str] | None = None  # of the push in progress
        self.announced: dict[str, int] = {}  # size by SHA-256
        self.objects: dict[str, bytes] = {}
        self.released = threading.Event()

    def __enter__(self) -> "Hub":
        handler = type("Handler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.released.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def trouble_at(self, route: str) -> int | str | None:
        if route == "create":
            self.trouble = self.troubles.pop(0) if self.troubles else None
        return self.trouble[1] if self.trouble and self.trouble[0] in (route, "any") else None

    # ---- one function for every route: (body, parts of the path) -> (status, JSON)

    def create(self, body, _):
        asked = json.loads(body)
        model = f"{asked['organization'] or 'someone'}/{asked['name']}"
        known = model in self.repositories
        self.repositories.setdefault(model, {})
        return (409 if known else 200), {"url": f"{self.address}/{model}"}

    def card(self, body, _):
        asked = json.loads(body)
        wrong = [] if asked["content"].startswith("---\n") else [{"message": "no front matter"}]
        return (400 if wrong else 200), {"errors": wrong, "warnings": []}

    def info(self, _, model):
        return (200, {"id": model, "sha": "0" * 40}) if model in self.repositories else (404, {"error": "not found"})

    def preupload(self, body, model):
        def mode(path):
            return "lfs" if path.endswith((".safetensors", ".bin")) else "regular"

        paths = [file["path"] for file in json.loads(body)["files"]]
        return 200, {"files": [{"path": path, "uploadMode": mode(path), "shouldIgnore": False} for path in paths]}

    def batch(self, body, model):
        objects = []
        for entry in json.loads(body)["objects"]:
            self.announced[entry["oid"]] = entry["size"]
            links = {"upload": f"{self.address}/lfs/{entry['oid']}", "verify": f"{self.address}/lfs/verify"}
            actions = {"actions": {name: {"href": link} for name, link in links.items()}}
            objects.append(entry if entry["oid"] in self.objects else entry | actions)
        return 200, {"objects": objects}

    def put(self, body, oid):
        if hashlib.sha256(body).hexdigest() != oid or len(body) != self.announced.get(oid):
            return 400, {"error": "size or SHA-256 is not as announced"}
        self.objects[oid] = body
        return 200, {}

    def verify(self, body, _):
        asked = json.loads(body)
        whole = len(self.objects.get(asked["oid"], b"")) == asked["size"]
        return (200, {}) if whole else (404, {"error": "nothing of that size"})

    def commit(self, body, model):
        header, *entries = [json.loads(line) for line in body.splitlines()]
        files = {}
        for entry in entries:
            value = entry["value"]
            if entry["key"] == "file" and value["encoding"] == "base64":
                files[value["path"]] = base64.b64decode(value["content"], validate=True)
            elif entry["key"] == "lfsFile" and len(self.objects.get(value["oid"], b"")) == value["size"]:
                files[value["path"]] = self.objects[value["oid"]]
            else:
                return 400, {"error": f"cannot commit {entry['key']} {value.get('path')}"}
        if header["key"] != "header" or model not in self.repositories:
            return 400, {"error": "no header, or no such repository"}
        self.repositories[model] |= files
        self.commits.append((model, header["value"]["summary"], set(files)))
        oid = hashlib.sha1(body).hexdigest()
        return 200, {"commitUrl": f"{self.address}/{model}/commit/{oid}", "commitOid": oid, "hookOutput": ""}


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body, path = self.read_body(), self.path.split("?")[0]
        for route, (method, pattern) in ROUTES.items():
            match = re.fullmatch(pattern, path)
            if match and method == self.command:
                break
        else:
            return self.answer(404, {"error": f"this stub knows no {self.command} {path}"})
        self.hub.requests.append(route)
        trouble = self.hub.trouble_at(route)
        if trouble == "silence":
            self.hub.released.wait(self.hub.patience)
        if trouble in ("drop", "silence"):
            self.close_connection = True
        elif trouble == "page":
            self.answer(200, None, b"<html>Please log in to the network</html>")
        elif trouble is not None:
            self.answer(trouble, {"error": "Invalid username or password." if trouble == 401 else "made to fail"})
        elif route != "put" and self.headers["Authorization"] != f"Bearer {self.hub.token}":
            self.answer(401, {"error": "Invalid username or password."})
        else:
            self.answer(*getattr(self.hub, route)(body, *match.groups() or (None,)))

    do_GET = do_POST = do_PUT = handle_any

    def read_body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, status: int, tree: dict | None, page: bytes = b"") -> None:
        content = page or json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if page else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass
