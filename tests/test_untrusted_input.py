"""Input from others: a Hub that fails, checkpoints with code in them, lists and datasets that name files elsewhere."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from folders import data, error_message, make_folder, save_image, write
from scripts import ROOT
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerModel

from s4former.config import Data, Model
from s4former.data.images import read_image
from s4former.data.sources import load_sources
from s4former.errors import ConfigError
from s4former.networks.build import load_network
from s4former.networks.encoder_weights import read_encoder_config, read_tensors

# ---- a Hub that fails


class FailingHub(BaseHTTPRequestHandler):
    """Answers for stub/500 with 500 and so on; for stub/silence not at all, for stub/drop it hangs up."""

    released = threading.Event()

    def handle_any(self):
        failure = self.path.split("/stub/")[-1].split("/")[0] if "/stub/" in self.path else "404"
        if failure == "silence":
            self.released.wait(30)
        if failure.isdecimal():
            content = json.dumps({"error": "made to fail"}).encode()
            self.send_response(int(failure))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else content)
        self.close_connection = True

    do_GET = do_HEAD = do_POST = handle_any

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """The message of each request for each failure; and the address of that Hub."""
    FailingHub.released.clear()  # a process that runs tests in another order may come here twice
    server = ThreadingHTTPServer(("127.0.0.1", 0), FailingHub)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    online = {name: value for name, value in os.environ.items() if not name.lower().endswith(("_proxy", "_offline"))}
    online |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path_factory.mktemp("home")), "PYTHONPATH": str(ROOT)}
    online |= {"HF_HUB_ETAG_TIMEOUT": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests" / "ask_the_hub.py"), "500", "401", "silence", "drop"]
    try:
        done = subprocess.run(command, env=online, capture_output=True, text=True, timeout=300)
    finally:
        FailingHub.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), address


@pytest.mark.slow
@pytest.mark.parametrize("request_for", ["encoder", "weights", "network", "evaluate", "dataset"])
@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("500", "{hub} answered 500 Internal Server Error"),
        ("401", "{hub} answered 401 Unauthorized"),
        ("silence", "no connection to {hub} (ReadTimeout: "),
        ("drop", "no connection to {hub} (RemoteProtocolError: "),
    ],
)
def test_a_hub_that_fails_is_reported_with_its_answer(messages, request_for, failure, reason):
    by_request, hub = messages
    message = by_request[f"{request_for} {failure}"]
    if (request_for, failure) == ("dataset", "silence"):  # datasets does not hand on why
        reason = "Couldn't reach 'stub/silence' on the Hub"
    assert reason.format(hub=hub) in message and f"'stub/{failure}'" in message and "\n" not in message
    assert ("log in with `hf auth login`, or set HF_TOKEN" in message) == (failure == "401")


# ---- checkpoints


class CodeInPickle:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


SMALL = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "decoder_hidden_size": 8, "num_attention_heads": [1, 1, 2, 2]}


def folder_with_pickle(kind, folder, weights):
    """A model of transformers whose weights are a pickle."""
    kind(SegformerConfig(**SMALL, num_labels=3)).config.save_pretrained(folder)
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("with_code", [False, True], ids=["tensors", "code"])
def test_no_pickle_is_opened(tmp_path, with_code):
    weights = {"a": CodeInPickle(tmp_path / "ran") if with_code else torch.zeros(3)}
    network = folder_with_pickle(SegformerForSemanticSegmentation, tmp_path / "network", weights)
    with pytest.raises(ConfigError, match="cannot be loaded as a segmentation network .*model.safetensors"):
        load_network(network)
    encoder = folder_with_pickle(SegformerModel, tmp_path / "encoder", weights)
    model = Model(architecture="segformer", encoder=str(encoder))
    with pytest.raises(ConfigError, match="could not be read .*model.safetensors"):
        read_tensors(model, read_encoder_config(model))
    assert not (tmp_path / "ran").exists()


def test_code_that_comes_with_a_model_is_not_run_and_the_user_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question"))
    folder = tmp_path / "model"
    folder.mkdir()
    own = {"AutoConfig": "custom.Custom", "AutoModelForSemanticSegmentation": "custom.Custom"}
    (folder / "config.json").write_text(json.dumps({"model_type": "custom", "auto_map": own}))
    (folder / "custom.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\nclass Custom: pass\n")
    with pytest.raises(ConfigError, match="cannot be loaded as a segmentation network .*custom code"):
        load_network(folder)
    with pytest.raises(ConfigError, match="could not be read .*custom code"):
        read_encoder_config(Model(encoder=str(folder)))
    assert not (tmp_path / "ran").exists()


# ---- lists, folders, datasets


def test_an_absolute_line_says_why_it_is_not_followed(tmp_path):
    root = make_folder(tmp_path)
    save_image(tmp_path / "outside.jpg")
    write(root / "labeled.txt", f"{tmp_path}/outside.jpg")
    assert error_message(load_sources, data(root)) == (
        f"data.labeled: {root}/labeled.txt names 1 id without an image in {root}, the first: {tmp_path}/outside.jpg; a leading"
        f" / means {root}, since a list may not lead out of it"
    )


def test_links_in_the_data_folder_are_followed(tmp_path):
    root = make_folder(tmp_path)
    (root / "images").rename(tmp_path / "big_disk")
    (root / "images").symlink_to(tmp_path / "big_disk")
    assert load_sources(data(root)).labeled["id"][:] == ["a", "b"]


def test_a_broken_link_is_reported_and_a_link_to_a_parent_folder_is_not_followed(tmp_path):
    root = make_folder(tmp_path)
    (root / "images" / "again").symlink_to(root / "images")
    (root / "images" / "up").symlink_to(root)
    (root / "images" / "g.jpg").symlink_to(tmp_path / "unplugged.jpg")
    found = load_sources(data(root))
    assert found.unlabeled["id"][:] == ["c", "d", "e", "g"]
    assert error_message(read_image, found.unlabeled[3]["image"]) == (
        f"image {root}/images/g.jpg does not exist: it is a link to {tmp_path}/unplugged.jpg, which is not there"
    )


def test_a_dataset_that_names_other_files_of_this_machine_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    save_image(tmp_path / "private.png")
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    cell = pa.array([{"bytes": None, "path": str(tmp_path / "private.png")}], type=features.arrow_schema.field("image").type)
    table = pa.table({"image": cell, "mask": cell})
    (tmp_path / "custom").mkdir()
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features.to_dict()}})}),
        tmp_path / "custom" / "train-0.parquet",
    )
    root = str(tmp_path / "custom")
    message = error_message(load_sources, Data(source="hub", root=root, labeled="first:1", validation="train", classes=("a", "b")))
    datasets.enable_progress_bars()
    assert message == (
        f"data.root is {root!r}, and its column image names {tmp_path}/private.png, a file outside of the dataset; no dataset"
        " may name other files of this machine: take one that holds its images (save_to_disk puts them in)"
    )
