"""evaluate.py, mostly called in this process; run as a user runs it, alone and in two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scripts import ROOT
from scripts import run as run_script
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from s4former.commands import evaluate_model
from s4former.commands.evaluate import main
from s4former.commands.predict import main as predict
from s4former.config import from_dict, to_dict
from s4former.data.batches import validation_set
from s4former.data import shapes
from s4former.data.class_names import CITYSCAPES_TRAIN_IDS
from s4former.errors import DataError
from s4former.evaluation.inference import Setting, evaluate_networks
from s4former.evaluation.model_choice import choose_model
from s4former.evaluation.photos import label_id_names
from s4former.networks.adapters import full_size_logits
from s4former.networks.build import save_network

HALF = (0.5, 0.5, 0.5)


def tiny_network(num_labels: int, seed: int) -> SegformerForSemanticSegmentation:
    torch.manual_seed(seed)
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 8}
    return SegformerForSemanticSegmentation(SegformerConfig(num_labels=num_labels, **sizes)).eval()


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory) -> Path:
    """A folder with runs/: `older` with teacher and student, `newer` with a student, `started` without a model."""
    folder = tmp_path_factory.mktemp("runs_folder")
    tree = {
        "data": {"source": "shapes", "crop": [32, 48], "shapes": {"validation": 7, "height": 32, "width": 48}},
        "evaluation": {"short_side": 0, "batch": 2},
    }
    for age, (run, models) in enumerate({"older": ["teacher", "student", "best-student"], "newer": ["student"], "started": []}.items()):
        path = folder / "runs" / run
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(to_dict(from_dict(tree))))
        os.utime(path / "config.json", (1e9 + age, 1e9 + age))
        for seed, name in enumerate(models):
            save_network(tiny_network(9, seed), path / name, HALF, HALF, 0)
    return folder


@pytest.fixture
def here(runs_folder, monkeypatch) -> Path:
    monkeypatch.chdir(runs_folder)
    return runs_folder


def report_of(tmp_path: Path, *arguments: str) -> dict:
    assert main([*arguments, "--json", str(tmp_path / "report.json")]) == 0
    return json.loads((tmp_path / "report.json").read_text())


def error_of(capsys, *arguments: str) -> str:
    assert main([*arguments]) == 1
    return capsys.readouterr().err.splitlines()[-1]


def counted(folder: Path, run: str, model: str, **evaluation):
    tree = json.loads((folder / "runs" / run / "config.json").read_text())
    tree["evaluation"].update(evaluation)
    config = from_dict(tree)
    dataset = validation_set(config)
    network = SegformerForSemanticSegmentation.from_pretrained(folder / "runs" / run / model).eval()
    setting = Setting(evaluation=config.evaluation, crop=config.data.crop, mean=HALF, std=HALF)
    networks = {model: lambda images: full_size_logits(network, images)}
    matrix = evaluate_networks(networks, dataset, setting, num_classes=9)[model]
    return matrix, matrix.as_dict(dataset.classes)


def scores_of(report: dict) -> dict:
    return {key: report[key] for key in ("mean_iou", "pixel_accuracy", "iou")}


def test_without_a_checkpoint_it_takes_the_newest_run_that_has_a_model_and_says_so(here, tmp_path, capsys):
    report = report_of(tmp_path)
    output = capsys.readouterr()
    assert "evaluating the newest run, runs/newer: student, last" in output.err
    matrix, scores = counted(here, "newer", "student")
    assert scores_of(report) == scores
    assert report["images"] == 7 and report["pixels"] == 7 * 32 * 48 == int(matrix.counts.sum())
    assert f"mean IoU         {100 * scores['mean_iou']:5.2f}" in output.out
    assert "7 images, whole images, original size" in output.out


def test_the_teacher_comes_first_and_the_best_is_called_what_it_is(here, tmp_path):
    report = report_of(tmp_path, "--checkpoint", "runs/older")
    assert report["checkpoint"] == "runs/older/teacher"
    assert scores_of(report) == counted(here, "older", "teacher")[1]
    report = report_of(tmp_path, "--checkpoint", "runs/older", "--best", "--limit", "2")
    assert report["model"] == "runs/older: student, best (chosen on the evaluation images)" and report["images"] == 2


def test_the_report_goes_to_standard_output_if_asked(here, capsys):
    assert main(["--limit", "1", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 1


def test_an_exported_folder_inside_a_run_brings_the_config_of_the_run(here, tmp_path):
    report = report_of(tmp_path, "--checkpoint", "runs/older/student")
    assert scores_of(report) == counted(here, "older", "student")[1]


def test_a_model_trained_with_a_key_that_was_taken_out_is_still_read(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "setr"}')
    (tmp_path / "s4former.json").write_text('{"method": {"previous": 3, "mix": "none"}}')
    assert choose_model(str(tmp_path)).config == {"method": {"mix": "none"}}


def test_windows_slide_by_the_flags_and_predictions_are_written(here, tmp_path, capsys):
    flags = ["--sliding-window", "--window", "32", "40", "--stride", "8", "16", "--short-side", "40", "--batch", "3"]
    report = report_of(tmp_path, "--checkpoint", "runs/older", *flags, "--save-predictions", str(tmp_path / "seen"))
    evaluation = {"mode": "sliding", "window": [32, 40], "stride": [8, 16], "short_side": 40, "batch": 3}
    assert {key: report["evaluation"][key] for key in evaluation} == evaluation
    matrix, scores = counted(here, "older", "teacher", **evaluation)
    assert scores_of(report) == scores
    assert "windows of 32x40 every 8x16 pixels, shorter side 40" in capsys.readouterr().out
    masks, overlays = sorted((tmp_path / "seen/masks").iterdir()), sorted((tmp_path / "seen/overlays").iterdir())
    assert [path.stem for path in masks] == [path.stem for path in overlays] and len(masks) == 7
    found = [np.bincount(np.asarray(Image.open(path)).ravel(), minlength=9) for path in masks]
    assert np.array_equal(sum(found), matrix.counts.sum(dim=0).numpy())


def test_a_plain_folder_takes_its_data_from_the_command_line(here, tmp_path, capsys):
    save_network(tiny_network(9, 0), tmp_path / "plain", HALF, HALF, 0)
    assert error_of(capsys, "--checkpoint", str(tmp_path / "plain")).endswith(
        "does not say on which data to test it (it has no s4former.json); add --config FILE, or data.source=..."
        " data.root=... and the like"
    )
    world = ["data.source=shapes", 'data.shapes={"validation": 3, "height": 32, "width": 48}', "evaluation.short_side=0"]
    assert report_of(tmp_path, "--checkpoint", str(tmp_path / "plain"), *world)["images"] == 3
    (tmp_path / "plain" / "preprocessor_config.json").unlink()
    assert "has no preprocessor_config.json with image_mean" in error_of(
        capsys, "--checkpoint", str(tmp_path / "plain"), *world
    )
    save_network(tiny_network(5, 0), tmp_path / "five", HALF, HALF, 0)
    assert "five tells 5 classes apart, but the data have 9 (background" in error_of(
        capsys, "--checkpoint", str(tmp_path / "five"), *world
    )
    network, classes = tiny_network(9, 0), [*shapes.CLASSES]
    network.config.id2label = dict(enumerate([*classes[:-2], classes[-1].upper(), classes[-2]]))
    save_network(network, tmp_path / "swapped", HALF, HALF, 0)
    assert f"class 7 of {tmp_path / 'swapped'} is {classes[-1].upper()!r}, that of the data {classes[-2]!r}; give the ids" in error_of(
        capsys, "--checkpoint", str(tmp_path / "swapped"), *world
    )
    network.config.id2label = dict(enumerate([*classes[:-1], "other"]))
    save_network(network, tmp_path / "named", HALF, HALF, 0)
    report_of(tmp_path, "--checkpoint", str(tmp_path / "named"), *world)
    assert f"class 8 of {tmp_path / 'named'} is 'other', that of the data {classes[-1]!r}; they are compared by number" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--checkpoint", "runs/none"], "there is no folder runs/none; give a run, an exported model"),
        (["--checkpoint", "runs/started"], "runs/started has no teacher/ or student/ yet"),
        (["--checkpoint", "runs/newer", "--model", "teacher"], "runs/newer has no teacher/, only a student"),
        (["--checkpoint", "runs/newer", "--best"], "runs/newer has no best-teacher/ or best-student/ yet"),
        (["--checkpoint", "runs"], "runs has no config.json, so it is neither a run nor an exported model"),
        (["--checkpoint", "runs/older/student", "--best"], "--model and --best choose among the models of a run"),
        (["--checkpoint", "nobody/nothing"], "'nobody/nothing' is no folder here and cannot be had from the Hub"),
        (["--window", "8", "8"], "--window and --stride say how windows slide; add --sliding-window"),
        (["evaluation.bach=3"], "unknown key evaluation.bach; did you mean evaluation.batch?"),
        (["--limit", "-3"], "evaluation.limit is -3; it must be at least 0"),
        (["--config", "none.json"], "there is no config file none.json"),
        (["--sliding-window", "--stride", "512", "512"], "evaluation.stride is [512, 512] for windows of ["),
        (["--json", "none/report.json"], "--json none/report.json: there is no such folder to write it into; make it first"),
    ],
)
def test_what_cannot_be_evaluated_is_an_error_message(here, capsys, arguments, message):
    assert error_of(capsys, *arguments).startswith(f"s4former evaluate: {message}")


def test_predictions_that_cannot_be_written_are_an_error_message(here, capsys):
    Path("file").write_text("")
    assert "file" in error_of(capsys, "--save-predictions", "file/out")


def test_images_too_large_for_the_device_are_an_error_message(here, capsys, monkeypatch):
    def too_large(*given, **named):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.\nmore")

    monkeypatch.setattr(evaluate_model, "predictions", too_large)
    assert error_of(capsys).splitlines()[-1] == (
        "s4former evaluate: CUDA out of memory. Tried to allocate 9.00 GiB. Take a smaller evaluation.batch (--batch), or evaluation.mode=sliding (--sliding-window) for large images"
    )


def test_no_run_at_all_is_an_error_message(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert error_of(capsys) == (
        "s4former evaluate: there is no run below runs/; train one with train_semi.py, or say which model with --checkpoint"
    )


@pytest.mark.slow
@pytest.mark.parametrize("arguments, message", [(["--images", "runs"], "--save-predictions DIR"), (["--flip=2"], "usage: "), (["--images", "runs", "none", "--save-predictions", "x"], "--images 'runs'")])
def test_mistakes_in_the_arguments_are_answered_before_torch_is_imported(runs_folder, arguments, message):
    code = (
        "import sys; from s4former.commands.evaluate import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert not {'torch', 'transformers', 'datasets'} & sys.modules.keys()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, cwd=runs_folder, env=environment, capture_output=True, text=True, timeout=60)
    assert message in result.stderr and "Error" not in result.stderr


@pytest.mark.slow
def test_two_processes_count_every_image_exactly_once(runs_folder, tmp_path):
    command = [sys.executable, str(ROOT / "evaluate.py"), "--checkpoint", "runs/older"]
    places = ["--json", str(tmp_path / "report.json"), "--save-predictions", str(tmp_path / "seen")]
    result = run_script([*command, *places], cwd=runs_folder, processes=2)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    matrix, scores = counted(runs_folder, "older", "teacher")
    assert report["processes"] == 2 and report["images"] == 7 and report["pixels"] == int(matrix.counts.sum())
    assert report["mean_iou"] == pytest.approx(scores["mean_iou"], abs=1e-6)
    assert len(list((tmp_path / "seen/masks").iterdir())) == 7


# ---- photos without masks


@pytest.fixture
def photos(here, tmp_path) -> Path:
    """Nine photos in three sizes, two folders and two formats; two of them are broken."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for index, name in enumerate(["a.jpg", "a.png", "b.png", "c.png", "d.png", "deep/a.png", "deep/e.png"]):
        Image.effect_noise(((24, 16), (16, 24), (40, 30))[index % 3], 90).convert("RGB").save(folder / name)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "cut.png").write_bytes((folder / "b.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("no picture either")
    return folder


def test_photos_without_masks_become_class_maps_in_their_sizes_and_broken_ones_are_named_at_the_end(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["--images", str(photos), "--save-predictions", str(out), "--batch", "2"]) == 1
    said = capsys.readouterr().out
    assert "7 images in" in said and "2 could not be read, the others are done:" in said
    assert "broken.png cannot be read: its content is no image" in said and "cut.png" in said
    names = ["a.jpg.png", "a.png.png", "b.png", "c.png", "d.png", "deep__a.png", "deep__e.png"]
    assert sorted(path.name for path in (out / "masks").iterdir()) == names
    network = SegformerForSemanticSegmentation.from_pretrained("runs/newer/student").eval()
    for name, photo in {"a.jpg": "a.jpg", "c": "c.png", "deep__e": "deep/e.png"}.items():
        with Image.open(photos / photo) as image, Image.open(out / "masks" / f"{name}.png") as mask:
            pixels = (torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
            assert mask.mode == "P" and mask.size == image.size
            with torch.no_grad():
                assert np.array_equal(np.asarray(mask), full_size_logits(network, pixels)[0].argmax(dim=0).numpy())
        with Image.open(out / "overlays" / f"{name}.jpg") as overlay:
            assert overlay.size == mask.size
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width > 1200  # two pairs in a row


def test_one_photo_or_a_glob_of_them_is_read_by_a_model_that_names_no_data(photos, tmp_path, capsys):
    save_network(tiny_network(9, 0), tmp_path / "plain", HALF, HALF, 0)
    command = ["--checkpoint", str(tmp_path / "plain"), "--save-predictions", str(tmp_path / "out")]
    sliding = ["--sliding-window", "--window", "16", "16", "--short-side", "0", "--json", str(tmp_path / "report.json")]
    assert main([*command, "--images", str(photos / "**" / "a.*"), *sliding]) == 0
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == ["a.jpg.png", "a.png.png", "deep__a.png"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["images"] == 3 and report["unreadable"] == []
    assert main([*command, "--images", str(photos / "deep" / "a.png")]) == 0
    assert (tmp_path / "out" / "masks" / "a.png").is_file()


def test_several_files_and_folders_are_read_at_once_and_keys_may_stand_behind_them(photos, tmp_path, capsys):
    several = [str(photos / "deep"), str(photos / "c.png"), str(photos / "deep" / "a.png")]
    assert main(["--save-predictions", str(tmp_path / "one"), "--images", *several, "evaluation.short_side=16"]) == 0
    assert predict([*several, "evaluation.short_side=16", "-o", str(tmp_path / "two")]) == 0
    for name in ("one", "two"):  # the file that is named twice is read once
        assert sorted(path.name for path in (tmp_path / name / "masks").iterdir()) == ["c.png", "deep__a.png", "deep__e.png"]
    long = "data.palette=" + json.dumps({f"#{place:06x}": place for place in range(40)})  # longer than the name of a file can be
    assert predict([long]) == 1
    assert "no photos are given, data.palette=" in capsys.readouterr().err
    assert predict(["evaluation.short_side=16"]) == 1
    assert "no photos are given, evaluation.short_side=16 is a key of the config" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--images", "nothing/*.png", "--save-predictions", "out"], "--images 'nothing/*.png': there is no such file or folder"),
        (["--images", "runs", "--save-predictions", "out"], "--images 'runs': the folder has no image below it"),
        (["--images", "runs"], "--images says what to read; say where the class maps go with --save-predictions DIR"),
    ],
)
def test_photos_that_cannot_be_found_are_an_error_message(here, capsys, arguments, message):
    assert error_of(capsys, *arguments).startswith(f"s4former evaluate: {message}")


def test_label_ids_are_what_the_server_of_cityscapes_takes(here, tmp_path, capsys):
    """Grey PNGs in the size of the photo and the ids of labelIds, one a photo, whose names begin as the photo's."""
    photo = tmp_path / "test" / "berlin" / "berlin_000000_000019_leftImg8bit.png"
    photo.parent.mkdir(parents=True)
    (tmp_path / "test" / "bonn").mkdir()
    for path in (photo, tmp_path / "test" / "bonn" / "bonn_000000_000019_leftImg8bit.png"):
        Image.effect_noise((40, 24), 90).convert("RGB").save(path)
    save_network(tiny_network(19, 0), tmp_path / "model", HALF, HALF, 0)
    command = ["--checkpoint", str(tmp_path / "model"), "--images", str(tmp_path / "test"), "--label-ids", "data.source=cityscapes"]
    assert main(command) == 1
    assert "--label-ids says what to write; say where it goes with --save-predictions DIR" in capsys.readouterr().err
    assert main([*command, "--save-predictions", str(tmp_path / "out")]) == 0
    names = sorted(path.name for path in (tmp_path / "out" / "label_ids").iterdir())
    assert names == ["berlin_000000_000019_leftImg8bit.png", "bonn_000000_000019_leftImg8bit.png"]
    with Image.open(tmp_path / "out/label_ids" / names[0]) as ids, Image.open(
        tmp_path / "out/masks/berlin__berlin_000000_000019_leftImg8bit.png"
    ) as mask:
        assert (ids.mode, ids.size) == ("L", (40, 24))
        raw = {train: int(id) for id, train in CITYSCAPES_TRAIN_IDS.items() if train != 255}
        assert np.array_equal(np.asarray(ids), np.vectorize(raw.get)(np.asarray(mask))) and len(np.unique(ids)) > 1
    assert label_id_names(["a/my__x"]) == {"a/my__x": "my__x"}
    with pytest.raises(DataError, match="a/x.png and b/x.png have one name; give a folder at a time"):
        label_id_names(["a/x.png", "b/x.png"])
