"""Exported models, their cards, and their way to the Hub, which here is a stub on the loopback."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import huggingface_hub.utils._http as hub_http
import numpy as np
import pytest
import torch
from exported import run_without_the_package
from hub_stub import ROUTES, Hub
from huggingface_hub import ModelCard, close_session, constants
from PIL import Image
from safetensors.torch import load_file
from scripts import ROOT, command, environment, write_config
from transformers import AutoImageProcessor
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

import train_semi
from s4former.config import Model, load
from s4former.method.student import Student
from s4former.networks import export
from s4former.networks import hub as hub_module
from s4former.networks.build import build_network
from s4former.networks.encoder_weights import IMAGENET

# huggingface_hub's own upload of large files, where Xet is off
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

FILES = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "s4former.json"}
CODE = {"setr.py", "plain_vit.py"}
SMALL_MIT = {"hidden_sizes": [8, 16, 40, 64], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}
NAMES = {0: "sky", 1: "sea", 2: "sand"}
SHA = {part: letter * 64 for part, letter in (("labeled", "a"), ("unlabeled", "b"), ("validation", "c"))}
PROVENANCE = export.Provenance(
    method="S4Former",
    role="teacher",
    step=600,
    scores={"mean_iou": 0.45678, "pixel_accuracy": 0.9, "iou": {"sky": 0.5}},
    chosen=False,
    lists={part: {"images": count, "sha256": SHA[part]} for part, count in zip(SHA, (92, 10490, 1449))},
    command="python train_semi.py --config configs/voc_92.json run.seed=7",
    versions={"python": "3.12.1", "torch": "2.14.1"},
)


@pytest.fixture(autouse=True)
def without_bars():
    disable_progress_bar()
    yield
    enable_progress_bar()


def network_and_config(tmp_path, architecture="setr", *overrides):
    """A network as training has it, PASA's attention switched on, and the config it was built from."""
    small = f"model.encoder_config={json.dumps(SMALL_MIT)}"
    mit = ["model.architecture=segformer", "model.encoder=mit-b0", small] if architecture == "segformer" else []
    config = load(str(write_config(tmp_path)), [*mit, "run.seed=7", *overrides])
    torch.manual_seed(0)
    network = build_network(config.model, id2label=NAMES, crop=config.data.crop)
    return Student(network, config.method).network.eval(), config


def write(folder, network, config, provenance=PROVENANCE):
    mean, std = IMAGENET
    export.export(network, folder, config=config, mean=mean, std=std, provenance=provenance)
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def online(hub):
    """The environment of a script that speaks to the stub."""
    clean = {name: value for name, value in environment().items() if not name.lower().endswith("_proxy")}
    clean.pop("HF_HUB_OFFLINE")
    return {**clean, "HF_ENDPOINT": hub.address, "HF_TOKEN": hub.token, "HF_HUB_DISABLE_XET": "1"}


# ---- the folder


@pytest.mark.parametrize("architecture", ["setr", "segformer"])
def test_pasa_leaves_no_trace_but_in_the_configuration(architecture, tmp_path):
    network, config = network_and_config(tmp_path, architecture)
    assert config.method.pasa != "none"
    written = content(write(tmp_path / "model", network, config))
    assert set(written) == FILES | (CODE if architecture == "setr" else set())
    for name, data in written.items():
        assert name == "s4former.json" or b"pasa" not in data.lower(), name
    assert json.loads(written["s4former.json"])["run"]["seed"] == 7


@pytest.mark.parametrize(("short_side", "size"), [(32, (32, 44)), (0, (37, 51))])
def test_the_processor_resizes_as_evaluation_does(short_side, size, tmp_path):
    network, config = network_and_config(tmp_path, "segformer", f"evaluation.short_side={short_side}")
    processor = AutoImageProcessor.from_pretrained(write(tmp_path / "model", network, config))
    pixels = processor(Image.new("RGB", (51, 37)), return_tensors="pt")["pixel_values"]
    assert tuple(pixels.shape[-2:]) == size


def test_an_export_replaces_an_older_one_whole(tmp_path):
    network, config = network_and_config(tmp_path)
    folder = write(tmp_path / "model", network, config)
    (folder / "left over.txt").write_text("of the older one")
    write(folder, network, config, replace(PROVENANCE, step=700))
    assert set(content(folder)) == FILES | CODE and "after 700 steps" in (folder / "README.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"model", "tiny.json"}


@pytest.mark.parametrize("stage", ["save_network", "model_card", "replace_folder"])
def test_an_export_that_fails_leaves_the_older_one_and_nothing_beside_it(stage, tmp_path, monkeypatch):
    network, config = network_and_config(tmp_path)
    folder = write(tmp_path / "model", network, config)
    before = content(folder)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, stage, full)
    with pytest.raises(OSError, match="No space left"):
        write(folder, network, config, replace(PROVENANCE, step=700))
    assert content(folder) == before
    assert {path.name for path in tmp_path.iterdir()} == {"model", "tiny.json"}


# ---- the card


def test_the_card_states_where_a_model_comes_from(tmp_path):
    network, config = network_and_config(tmp_path)
    card = ModelCard.load(write(tmp_path / "model", network, config) / "README.md")
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "image-segmentation"
    assert card.data.model_name == "S4Former teacher on drawn shapes"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("mean_iou", 0.4568, "drawn shapes")
    for part in (
        "# S4Former on drawn shapes",
        "The teacher network after 600 steps of S4Former.",
        "**45.7 % mean IoU** on the validation list.",
        "| seed | 7 |",
        "| classes | 3: sky, sea, sand |",
        "| evaluation | whole images, short side 32 |",
        f"| labeled | 92 | `{SHA['labeled']}` |",
        f"| unlabeled | 10490 | `{SHA['unlabeled']}` |",
        f"| validation | 1449 | `{SHA['validation']}` |",
        "    python train_semi.py --config configs/voc_92.json run.seed=7",
        "With python 3.12.1, torch 2.14.1.",
        "Id 255 in a mask",
    ):
        assert part in card.text, part
    assert "chosen among several" not in card.text


def test_the_card_says_when_a_model_was_chosen_on_the_evaluation_images_or_not_evaluated(tmp_path):
    network, config = network_and_config(tmp_path)
    chosen = export.model_card(config, network, replace(PROVENANCE, chosen=True))
    assert "mean IoU** on the validation list, chosen among several on the evaluation images." in chosen.text
    for scores in (None, {"mean_iou": None}):
        card = export.model_card(config, network, replace(PROVENANCE, scores=scores))
        assert "Not evaluated at this step." in card.text and card.data.eval_results is None


def test_the_card_of_a_supervised_model_claims_no_unlabelled_images(tmp_path):
    network, config = network_and_config(tmp_path, "setr", "method.teacher=none")
    card = export.model_card(config, network, replace(PROVENANCE, method="Sup-Only", role="student"))
    assert "| unlabeled (not used) | 10490 |" in card.text and "semi-supervised" not in card.data.tags


def test_the_card_says_where_the_pipeline_cannot_give_what_was_scored(tmp_path):
    network, config = network_and_config(tmp_path)
    for overrides, sentence in (
        ({"mode": "sliding"}, "The score is that of windows, scales or mirrored images put together"),
        ({"rounding": "half_up"}, "The longer side was rounded half up for the score; the image processor rounds it down"),
        ({}, None),
    ):
        changed = replace(config, evaluation=replace(config.evaluation, **overrides))
        text = export.model_card(changed, network, PROVENANCE).text
        assert sentence in text if sentence else "The score is" not in text and "half up" not in text


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model.encoder=deit-tiny"], (None, None, None)),  # random weights
        (["model.pretrained=true", "model.encoder=deit-tiny"], ("facebook/deit-tiny-patch16-224", "apache-2.0", None)),
        (["model.start_from=you/model"], ("you/model", None, None)),
        (["data.source=hub", "data.root=you/photos"], (None, None, ["you/photos"])),
    ],
)
def test_the_card_names_base_model_licence_and_dataset_and_what_it_needs(overrides, expected, tmp_path):
    network, config = network_and_config(tmp_path, "setr")
    config = load(str(tmp_path / "tiny.json"), overrides)
    card = export.model_card(config, network, PROVENANCE)
    assert (card.data.base_model, card.data.license, card.data.datasets) == expected
    assert f"| base model | {expected[0] or 'none on the Hub'} |" in card.text
    assert f"| licence | {expected[1] or 'not stated here'}" in card.text
    assert "| needs | torch and transformers; transformers 5.17 or newer |" in card.text


def test_the_least_version_of_transformers_is_the_same_everywhere():
    least = f'"transformers>={export.LEAST_TRANSFORMERS}"'
    assert least in (ROOT / "pyproject.toml").read_text()
    for name in [*(files[0] for files in export.MODEL_FILES.values()), "deep_images.py"]:
        assert f"require_version({least}" in (ROOT / "s4former" / "networks" / name).read_text(), name


@pytest.mark.slow
def test_an_old_transformers_is_told_in_one_sentence(tmp_path):
    folder = write(tmp_path / "model", *network_and_config(tmp_path))
    code = """
import importlib.metadata as metadata
known = metadata.version
metadata.version = lambda name: "4.57.1" if name == "transformers" else known(name)
from transformers import AutoModelForSemanticSegmentation
try:
    AutoModelForSemanticSegmentation.from_pretrained(sys.argv[1], trust_remote_code=True)
except ImportError as error:
    print(str(error).splitlines()[0])
"""
    said = run_without_the_package(code, folder, folder=tmp_path).strip()
    assert said == "transformers>=5.17 is required for a normal functioning of this module, but found transformers==4.57.1."


def test_the_card_of_a_pushed_model_calls_it_by_its_address(tmp_path):
    network, config = network_and_config(tmp_path)
    card = export.model_card(config, network, replace(PROVENANCE, address="someone/model"))
    assert 'model="someone/model", trust_remote_code=True)' in card.text and "path/to" not in card.text


@pytest.mark.slow
def test_what_the_cards_show_runs_where_this_package_is_missing(tmp_path):
    """The code block of each card, as it stands but for the folder."""
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (37, 51, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos" / "photo.jpg")
    blocks = []
    for architecture in ("setr", "segformer"):
        folder = write(tmp_path / architecture, *network_and_config(tmp_path, architecture))
        (block,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        assert ("trust_remote_code=True" in block) == (architecture == "setr") and "path/to/this/folder" in block
        blocks.append(block.replace("path/to/this/folder", str(folder)))
    lines = run_without_the_package("\n".join(blocks), folder=tmp_path / "photos").splitlines()
    assert len(lines) >= 2 and {line.split()[0] for line in lines} <= set(NAMES.values())
    assert all(line.endswith("(51, 37)") for line in lines)


# ---- the repository's id


def test_a_malformed_id_stops_a_run_before_anything_is_written(tmp_path, monkeypatch, capsys):
    arguments = command(write_config(tmp_path), tmp_path / "run", "run.push_to_hub=someone/my model")
    monkeypatch.setattr(sys, "argv", arguments[1:])
    assert train_semi.main() == 1
    assert "train_semi.py: run.push_to_hub is 'someone/my model': Repo id must use" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ---- a push by itself, in this process


@pytest.fixture
def hub(monkeypatch):
    """The stub, and huggingface_hub made to speak to it without waiting between its attempts."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with Hub() as hub:
        monkeypatch.setenv("HF_TOKEN", hub.token)
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        hub.waits = []
        monkeypatch.setattr(hub_http, "time", SimpleNamespace(sleep=hub.waits.append))
        close_session()
        yield hub
        close_session()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_text("---\ntags: []\n---\n\n# A model\n")
    (tmp_path / "model" / "model.safetensors").write_bytes(os.urandom(100_000))
    return tmp_path / "model"


def test_a_push_brings_every_file_and_a_second_one_what_has_changed(hub, folder):
    assert export.push(folder, "someone/model", "step 1") is None
    assert hub.repositories == {"someone/model": content(folder)}
    (folder / "model.safetensors").write_bytes(os.urandom(50_000))
    assert export.push(folder, "someone/model", "step 2") is None
    assert hub.repositories == {"someone/model": content(folder)}
    assert [message for _, message, _ in hub.commits] == ["step 1", "step 2"]
    assert set(hub.requests) == set(ROUTES) - {"info"}


def test_an_id_without_an_owner_is_that_of_whoever_pushes(hub, folder):
    assert export.push(folder, "model", "step 1") is None
    assert set(hub.repositories) == {"someone/model"}


MANNERS = {
    500: "{hub} answered 500 Internal Server Error: made to fail",
    404: "{hub} answered 404 Not Found: made to fail",
    403: "{hub} answered 403 Forbidden: made to fail; log in with `hf auth login`, or set HF_TOKEN",
    "drop": "no connection to {hub} (RemoteProtocolError: Server disconnected without sending a response.)",
    "page": "{hub} does not answer as a Hub does (JSONDecodeError: ",
}
UNREAD = ("card", "put", "verify")  # of their answers huggingface_hub reads the status alone


@pytest.mark.parametrize(
    ("route", "manner"),
    [
        (route, manner)
        for route in ROUTES
        for manner in MANNERS
        if route != "info" and not (manner == "page" and route in UNREAD)
    ],
)
def test_a_push_that_fails_anywhere_says_why_in_one_line(route, manner, hub, folder):
    hub.troubles = [(route, manner)]
    complaint = export.push(folder, "someone/model", "step 1")
    assert complaint is not None and complaint.startswith(MANNERS[manner].format(hub=hub.address)), complaint
    assert "\n" not in complaint and not hub.commits
    assert sum(hub.waits) < 30
    assert export.push(folder, "someone/model", "step 1") is None  # the next one is none the worse for it


def test_a_token_that_the_hub_does_not_know_is_reported(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    complaint = export.push(folder, "someone/model", "step 1")
    assert complaint == (
        f"{hub.address} answered 401 Unauthorized: Invalid username or password.;"
        " log in with `hf auth login`, or set HF_TOKEN"
    )


def test_an_unreachable_hub_is_reported(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    complaint = export.push(folder, "someone/model", "step 1")
    assert complaint.startswith("no connection to http://127.0.0.1:9 (ConnectError: ") and "refused" in complaint


def test_a_hub_that_never_answers_is_not_waited_for(hub, folder, monkeypatch):
    monkeypatch.setattr(hub_module, "REQUEST_TIMEOUT", 0.2)
    hub.troubles = [("create", "silence")]
    complaint = export.push(folder, "someone/model", "step 1")
    assert complaint.startswith(f"no connection to {hub.address} (ReadTimeout: ")


def test_offline_mode_a_missing_folder_and_a_malformed_id_are_complaints_too(hub, folder, monkeypatch):
    assert export.push(folder, "a/b/c", "step 1").startswith("HFValidationError: Repo id must be")
    assert "is not a directory" in export.push(folder / "missing", "someone/model", "step 1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "offline mode is enabled" in export.push(folder, "someone/model", "step 1")


# ---- runs


def train_online(hub, tmp_path, *arguments):
    arguments = command(write_config(tmp_path), tmp_path / "run", "run.push_to_hub=someone/model", *arguments)
    return subprocess.run(arguments, env=online(hub), timeout=300, capture_output=True, text=True)


@pytest.mark.slow
def test_a_run_pushes_while_it_trains_and_at_its_end(tmp_path):
    with Hub() as hub:
        done = train_online(hub, tmp_path, "run.push_every=3")
    assert done.returncode == 0, done.stderr
    assert [(model, message) for model, message, _ in hub.commits] == [
        ("someone/model", "S4Former teacher, step 3"),
        ("someone/model", "S4Former teacher, step 6"),
    ]
    assert all(paths == FILES | CODE for _, _, paths in hub.commits)
    for step in (3, 6):
        assert f"pushed to someone/model at step {step}" in done.stderr
    received, folder = hub.repositories["someone/model"], tmp_path / "run" / "teacher"
    (tmp_path / "received.safetensors").write_bytes(received["model.safetensors"])
    pushed, kept = load_file(tmp_path / "received.safetensors"), load_file(folder / "model.safetensors")
    assert pushed.keys() == kept.keys() and all(torch.equal(pushed[name], kept[name]) for name in kept)
    for name in FILES - {"README.md", "model.safetensors"} | CODE:
        assert received[name] == (folder / name).read_bytes(), name
    card = received["README.md"].decode()
    assert card.replace("someone/model", "path/to/this/folder", 1) == (folder / "README.md").read_text()
    assert not list((tmp_path / "run").glob(".*"))
    best = (tmp_path / "run" / "best-teacher" / "README.md").read_text()
    assert "chosen among several on the evaluation images" in best and "chosen among" not in card
    assert "pasa" not in card.lower() and (ROOT / "s4former" / "networks" / "setr.py").read_bytes() == received["setr.py"]


@pytest.mark.slow
def test_a_hub_that_fails_never_harms_a_run(tmp_path):
    """Every step another failure; the results are there, and the run says what went wrong."""
    with Hub() as hub:
        hub.troubles = [("any", 500), ("any", 401), ("any", "drop"), ("put", 403)]
        done = train_online(hub, tmp_path, "run.push_every=1", "schedule.steps=4", "evaluation.every=4")
    assert done.returncode == 0, done.stderr
    assert not hub.commits and "Traceback" not in done.stderr
    for step, reason in enumerate(
        (
            "answered 500 Internal Server Error: made to fail",
            "answered 401 Unauthorized: Invalid username or password.; log in with",
            "no connection to http",
            "answered 403 Forbidden: made to fail; log in with",
        ),
        start=1,
    ):
        (line,) = re.findall(rf"^warning: could not push to someone/model at step {step}: (.*)$", done.stderr, re.MULTILINE)
        assert reason in line
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["steps"] == 4 and (tmp_path / "run" / "teacher" / "model.safetensors").exists()


def test_the_card_of_a_model_that_went_on_from_another_names_that_one():
    assert export.initialization_of(Model(start_from="you/model")) == "starting from you/model"
    assert export.initialization_of(Model(encoder="mit-b0")) == "encoder mit-b0"
