"""preflight.py and cost.py: what would stop a run is reported before it, and nothing is written."""

import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import datasets
import pytest
import torch
from accelerate import Accelerator
from folders import HEIGHT, WIDTH, data, error_message, ids, save_mask, save_photo, write
from PIL import Image
from scripts import ROOT, TINY, run, write_config

from s4former.config import Data, from_dict, share_of_process, to_dict
from s4former.data.sources import check_masks, load_sources
from s4former.training import cost as cost_module
from s4former.training import preflight as preflight_module
from s4former.training.cost import Cost, measure_cost
from s4former.training.engine import update
from s4former.training.machine import Machine
from s4former.training.preflight import duration, launch_line, most_processes, preflight
from s4former.training.run import build_training

CHEAP = Cost(
    steps=3, seconds=2.0, waiting=0.5, memory_gib=1.0, evaluation_seconds=0.5, state_bytes=2**30, network_bytes=2**30
)  # fmt: skip


@pytest.fixture(autouse=True)
def room(monkeypatch):
    """A disk with 100 GiB free, whatever this machine has."""
    monkeypatch.setattr(preflight_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=100 * 2**30))


@pytest.fixture
def root(tmp_path):
    """images a..f; a b labelled, e f for evaluation, c d the pool."""
    root = tmp_path / "flowers"
    for seed, name in enumerate("abcdef"):
        save_photo(root / "images" / f"{name}.png", seed)
    for name in "abef":
        save_mask(root / "masks" / f"{name}.png")
    write(root / "labeled.txt", "a", "b")
    write(root / "test.txt", "e", "f")
    return root


def config_of(root, **sections):
    return from_dict({**TINY, "data": {**to_dict(data(root, crop=(32, 48), resize=(64, 32), workers=0))}, **sections})


def check(config, capsys, tmp_path, cheap=None, monkeypatch=None):
    if cheap is not None:
        monkeypatch.setattr(preflight_module, "measure_cost", lambda training, processes: cheap)
    before = sorted(tmp_path.rglob("*"))
    sources = load_sources(config.data)
    status = preflight(config, sources, tmp_path / "runs" / "mine", Accelerator(cpu=True), ["--config", "my own.json", "run.seed=1"])
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"
    return status, " ".join(capsys.readouterr().out.split())


def test_a_sound_config_is_ready_and_told_its_cost_and_its_command(root, capsys, tmp_path):
    status, output = check(config_of(root), capsys, tmp_path)
    assert status == 0
    for words in (
        "ok labelled 2 labelled images with masks: all readable", "ok evaluation 2 evaluation images", "ok classes 3, all with",
        "ok overlap no image is in two sets", "ok unlabelled 2 of 2 unlabelled images opened, all readable",
        "ok steps 3 trained on cpu:", "of it waiting for data", "GiB of memory at the peak", "seconds for 6 steps and 2 evaluations of 2 images",
        "ok disk", "GiB are free", "Ready. Start it with:", "train_semi.py --config 'my own.json' run.seed=1",
    ):  # fmt: skip
        assert words in output, words


@pytest.mark.slow
def test_the_script_exits_with_0_or_1_and_leaves_no_folder(root, tmp_path):
    config = write_config(tmp_path, tree=to_dict(config_of(root)))
    command = ["python", str(ROOT / "train_semi.py"), "--config", str(config), "--check"]
    done = run(command, cwd=tmp_path)
    assert done.returncode == 0 and "Ready." in done.stdout, done.stderr
    (root / "masks" / "a.png").write_bytes(b"no picture")
    done = run(command, cwd=tmp_path)
    assert done.returncode == 1 and "Not ready: labelled." in done.stdout and "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flowers", "tiny.json"]


def test_every_bad_mask_is_named_not_the_first_alone(root, capsys, tmp_path):
    save_mask(root / "masks" / "a.png", ids(HEIGHT, WIDTH + 1))
    (root / "images" / "b.png").write_bytes(b"no picture")
    wrong = ids()
    wrong[0, 1] = 9
    save_mask(root / "masks" / "e.png", wrong)
    status, output = check(config_of(root), capsys, tmp_path)
    assert status == 1 and "Not ready: labelled, evaluation" in output
    assert "FAIL labelled 2 of 2 labelled images cannot be used" in output and "a.png is 25x16" in output and "b.png cannot be read" in output
    assert "e.png has the id 9" in output
    assert "trained on cpu" not in output, "nothing is trained on data that cannot be used"


def test_masks_whose_palettes_contradict_each_other_stop_the_check_and_the_run(root, capsys, tmp_path, monkeypatch):
    with Image.open(root / "masks" / "e.png") as mask:
        mask.putpalette([0, 0, 0, 0, 128, 0, 128, 0, 0, *[7] * 759])
        mask.save(root / "masks" / "e.png")
    config = config_of(root)
    status, output = check(config, capsys, tmp_path, CHEAP, monkeypatch)
    assert status == 1 and "Not ready: masks." in output
    assert "FAIL masks the id 1 is #800000 in" in output and "a.png and #008000 in" in output and "data.palette" in output
    assert error_message(check_masks, load_sources(config.data), config.data).startswith("the id 1 is #800000 in ")


def test_a_tiff_of_several_pages_is_noted(root, capsys, tmp_path, monkeypatch):
    with Image.open(root / "images" / "b.png") as image:
        image.save(root / "images" / "b.png", "TIFF", save_all=True, append_images=[image.copy()])
    status, output = check(config_of(root), capsys, tmp_path, CHEAP, monkeypatch)
    assert status == 0 and f"not all is read of 1 TIFF, of the first, {root / 'images' / 'b.png'} the first of 2 pages" in output


def test_classes_without_pixels_or_with_few_are_told(root, capsys, tmp_path, monkeypatch):
    for name, rows in (("a", 0), ("b", 1), ("e", 2), ("f", 2)):
        mask = ids() * 0
        mask[:rows, 3:] = 1
        save_mask(root / "masks" / f"{name}.png", mask)
    status, output = check(config_of(root), capsys, tmp_path, CHEAP, monkeypatch)
    assert status == 0
    assert "note classes no labelled pixel shows bud; it will not be learned" in output
    assert "few labels: leaf (2.73% of the pixels, 1 image)" in output
    assert "no evaluation image shows bud; its IoU is left out of the mean" in output
    for name in "ab":
        save_mask(root / "masks" / f"{name}.png", ids() * 0)
    status, output = check(config_of(root), capsys, tmp_path, CHEAP, monkeypatch)
    assert status == 1 and "FAIL classes the labels show nothing but class 0" in output


def test_an_evaluation_image_under_another_name_fails_and_a_labelled_one_in_the_pool_is_noted(root, capsys, tmp_path, monkeypatch):
    shutil.copy(root / "images" / "a.png", root / "images" / "twin.png")
    status, output = check(config_of(root), capsys, tmp_path, CHEAP, monkeypatch)
    assert status == 0 and "note overlap 1 labelled image also in the pool, by content" in output and "twin.png" in output
    shutil.copy(root / "images" / "e.png", root / "images" / "twin.png")
    status, output = check(config_of(root), capsys, tmp_path, CHEAP, monkeypatch)
    assert status == 1 and "FAIL overlap 1 evaluation image also trained on under another name" in output and "twin.png" in output


def test_images_that_a_dataset_holds_in_itself_are_compared_by_content(tmp_path, capsys):
    def table(*greys):
        pictures = [Image.new("RGB", (8, 6), (grey, 0, 0)) for grey in greys]
        features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
        return datasets.Dataset.from_dict({"image": pictures, "mask": pictures}, features=features)

    datasets.DatasetDict({"train": table(1, 2, 3), "validation": table(9, 2)}).save_to_disk(str(tmp_path / "set"))
    sources = load_sources(Data(source="hub", root=str(tmp_path / "set"), labeled="first:2", classes=("a", "b")))
    report = preflight_module.Report()
    preflight_module.check_overlap(sources, report)
    assert "1 evaluation image also trained on under another name: 1 of the labelled = 1 of the evaluation" in " ".join(capsys.readouterr().out.split())
    assert report.failed


def test_unreadable_unlabelled_images_are_noted_and_fail_only_together(root, capsys, tmp_path, monkeypatch):
    (root / "images" / "c.png").write_bytes(b"no picture")
    status, output = check(config_of(root), capsys, tmp_path, CHEAP, monkeypatch)
    assert status == 0 and "note unlabelled 2 of 2 unlabelled images opened, 1 cannot be read; training replaces them" in output
    (root / "images" / "d.png").write_bytes(b"no picture either")
    status, output = check(config_of(root), capsys, tmp_path, CHEAP, monkeypatch)
    assert status == 1 and "FAIL unlabelled no unlabelled image can be used" in output


def test_the_cost_is_a_sum_and_a_slow_loader_is_noted(root, capsys, tmp_path, monkeypatch):
    config = config_of(root, schedule={"steps": 3600}, evaluation={"every": 360})
    status, output = check(config, capsys, tmp_path, CHEAP, monkeypatch)
    assert "about 2.0 hours for 3600 steps and 10 evaluations of 2 images" in output
    assert "note steps the loader is too slow: raise data.workers from 0" in output
    assert "runs/mine will take 7.0 GiB" in output and status == 0
    often = config_of(root, schedule={"steps": 3600}, evaluation={"every": 1})
    assert "the evaluations take 33% of it: raise evaluation.every" in check(often, capsys, tmp_path, CHEAP, monkeypatch)[1]


def test_a_disk_without_room_fails(root, capsys, tmp_path, monkeypatch):
    status, output = check(config_of(root), capsys, tmp_path, replace(CHEAP, state_bytes=2**60), monkeypatch)
    assert status == 1 and "FAIL disk" in output and "or lower run.keep" in output


def test_memory_that_does_not_suffice_is_told_with_the_ways_out(root, capsys, tmp_path, monkeypatch):
    def too_much(training, processes):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore")

    monkeypatch.setattr(preflight_module, "measure_cost", too_much)
    status, output = check(config_of(root), capsys, tmp_path)
    assert status == 1 and "FAIL memory CUDA out of memory. Tried to allocate 20.00 GiB; take a higher run.batch.rounds" in output


def test_a_network_that_does_not_fit_the_config_fails_in_words(root, capsys, tmp_path):
    status, output = check(config_of(root, method={"block": 5}), capsys, tmp_path)
    assert status == 1 and "FAIL steps method.block = 5 tokens are 80 pixels, which does not divide data.crop" in output


def test_the_drawn_world_is_checked_too(capsys, tmp_path):
    status, output = check(from_dict(TINY), capsys, tmp_path)
    assert status == 0 and "5 labelled images with masks" in output and "11 of 11 unlabelled images opened" in output


def test_the_cost_is_measured_with_loader_workers_and_counts_what_a_checkpoint_holds(tmp_path):
    config = from_dict({**TINY, "data": {**TINY["data"], "workers": 1}})
    training = build_training(config, load_sources(config.data), tmp_path, Accelerator(cpu=True))
    found = measure_cost(training)
    assert found.steps == 3 and 0 <= found.waiting < 1 and found.seconds > 0 and found.evaluation_seconds > 0
    parameters = sum(p.numel() for p in training.student.parameters())
    assert found.state_bytes == pytest.approx(4 * 4 * parameters, rel=0.25)  # student, teacher, two moments of AdamW
    assert found.network_bytes < found.state_bytes / 3


def test_the_cost_is_of_steps_with_the_pool_though_a_run_begins_with_the_labels_alone(tmp_path, monkeypatch):
    config = from_dict({**TINY, "method": {**TINY["method"], "burn_in": 3}, "schedule": {"steps": 100}})
    training = build_training(config, load_sources(config.data), tmp_path, Accelerator(cpu=True))
    terms = []
    monkeypatch.setattr(cost_module, "update", lambda *arguments: terms.append(update(*arguments)))
    measure_cost(training)
    assert len(terms) > 2 and all("consistency_strong" in each for each in terms)


@pytest.mark.parametrize("images, gpus, sharing", [(8, 8, 4), (4, 4, 2)])
def test_deeplab_is_measured_though_each_gpu_gets_one_image(images, gpus, sharing, capsys, tmp_path, monkeypatch):
    """On the GPUs their batch norms are joint; the check is one process, in which a batch norm needs two images."""
    monkeypatch.setattr(preflight_module, "this_machine", lambda: Machine(8, 80.0, 16))
    model = {"architecture": "deeplabv3plus", "encoder": "resnet50", "pretrained": False, "decoder_channels": 16,
             "encoder_config": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1], "stem_width": 8}}  # fmt: skip
    method = {"pasa": "none", "patch_shuffle": False, "mix_from": "second_batch", "threshold": 0.1}
    batch = {"labeled": images, "unlabeled": images}
    config = from_dict({**TINY, "model": model, "method": method, "run": {**TINY["run"], "batch": batch}})
    status, output = check(config, capsys, tmp_path)
    assert status == 0 and f"--num_processes {gpus} " in output
    assert f"measured with the share of one of {sharing} processes, not {gpus}: batch norm needs two images in one process" in output


def test_the_launch_line_takes_the_gpus_that_the_batch_can_be_shared_among():
    config = from_dict({"run": {"batch": {"labeled": 8, "unlabeled": 8}}})
    assert most_processes(3, partial(share_of_process, config)) == 2
    line = launch_line(2, ["--config", "a b.json"])
    assert line == "accelerate launch --num_processes 2 --multi_gpu train_semi.py --config 'a b.json'"
    line = launch_line(1, ["--config", "c.json"])
    assert line == "python train_semi.py --config c.json"


def test_the_launch_line_of_the_console_command_needs_no_clone(monkeypatch):
    monkeypatch.setattr("sys.argv", ["s4former check"])
    assert launch_line(1, ["--config", "c.json"]) == "s4former train --config c.json"
    assert launch_line(2, ["--config", "c.json"]).endswith("--multi_gpu --module train_semi --config c.json")


def test_durations_are_said_as_people_say_them():
    assert [duration(seconds) for seconds in (40, 600, 9000)] == ["40 seconds", "10 minutes", "2.5 hours"]
