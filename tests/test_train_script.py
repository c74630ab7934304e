import json
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from scripts import ROOT, TINY, command, environment, run, train, write_config

from s4former.commands.chosen_model import choose_model
from s4former.commands.evaluate import main as evaluate
from s4former.evaluation.model_choice import CheckpointError
from s4former.evaluation.packed_counts import unpack_counts
from s4former.training import checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run from beginning to end, with loader workers and a tracker."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(folder)
    done = train(config, folder / "run", "data.workers=2", 'run.trackers=["tensorboard"]')
    assert done.returncode == 0, done.stderr
    return config, folder / "run", done


def state_of(run_folder):
    state, refused = checkpoint.load_newest(run_folder / "checkpoints")
    assert not refused
    return state


def assert_same_weights(one, other):
    for part in ("student", "teacher"):
        assert all(torch.equal(value, other[part][name]) for name, value in one[part].items()), part
    for index, slots in one["optimizer"]["state"].items():
        assert all(torch.equal(value, other["optimizer"]["state"][index][name]) for name, value in slots.items())


def test_a_run_leaves_models_results_log_picture_and_tracker_files(finished):
    _, folder, done = finished
    results = json.loads((folder / "results.json").read_text())
    assert results["method"] == "S4Former" and results["steps"] == 6 and results["seed"] == 0
    for role in ("teacher", "student"):
        assert set(results["last"][role]) == {"mean_iou", "pixel_accuracy", "iou"}
        assert results["best"][role]["step"] in (3, 6) and len(results["last"][role]["iou"]) == 9
        assert {"config.json", "model.safetensors", "README.md", "setr.py", "plain_vit.py"} <= {p.name for p in (folder / role).iterdir()}
        assert (folder / f"best-{role}" / "model.safetensors").exists()
    assert results["lists"]["labeled"]["images"] == 5 and len(results["lists"]["unlabeled"]["sha256"]) == 64
    assert results["hours"] > 0 and results["images_per_second"] > 0 and results["peak_memory_gib"] > 0
    assert torch.__version__.startswith(results["versions"]["torch"]) and "train_semi.py" in results["command"]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in trained] == [1, 2, 3, 4, 5, 6]
    assert {"loss/total", "loss/ncr", "confident", "images_per_second", "waiting", "learning_rate"} <= set(trained[0])
    assert [line["step"] for line in lines if line["kind"] == "evaluation/teacher"] == [3, 6]
    assert any(b"teacher/share/boat" in events.read_bytes() for events in folder.rglob("events.out.tfevents*"))
    with Image.open(folder / "predictions.png") as picture:
        assert picture.width > 400
    assert "step 6/6" in done.stderr and "evaluate with: python evaluate.py" in done.stderr
    assert [path.name for path in checkpoint.complete(folder / "checkpoints")] == ["step-00000004", "step-00000006"]


def test_a_run_that_has_not_ended_is_evaluated_by_its_newest_checkpoint(finished, tmp_path):
    _, folder, _ = finished
    run = tmp_path / "stopped"
    shutil.copytree(folder / "checkpoints", run / "checkpoints")
    shutil.copy(folder / "config.json", run)
    last = results_of(folder)["last"]
    for role in ("teacher", "student"):
        assert evaluate(["--checkpoint", str(run), "--model", role, "--json", str(tmp_path / "report.json")]) == 0
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["model"] == f"{run}, a run that has not ended, at step 6: {role}, last"
        assert {key: report[key] for key in last[role]} == last[role]
        exported = run / "checkpoints" / "step-00000006" / role
        for name in ("config.json", "preprocessor_config.json", "s4former.json"):
            assert json.loads((exported / name).read_text()) == json.loads((folder / role / name).read_text()), name
    assert choose_model(str(run)).source == str(run / "checkpoints" / "step-00000006" / "teacher")
    for path in (run / "checkpoints").glob("*/state.pt"):
        path.write_bytes(b"")
    shutil.rmtree(run / "checkpoints" / "step-00000006" / "teacher")
    shutil.rmtree(run / "checkpoints" / "step-00000006" / "student")
    with pytest.raises(CheckpointError, match="no checkpoint can be resumed from: .*state.pt does not match its SHA-256"):
        choose_model(str(run))


def test_a_run_says_what_its_teacher_is_doing(finished):
    _, folder, _ = finished
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    teacher, train, right = ([line for line in lines if line["kind"] == kind] for kind in ("teacher", "train", "evaluation/pseudo"))
    assert [line["step"] for line in teacher] == [1, 2, 3, 4, 5, 6] and [line["step"] for line in right] == [3, 6]
    for said, trained in zip(teacher, train):
        assert said["confident"] == pytest.approx(trained["confident"], abs=1e-4) == pytest.approx(sum(said["share"].values()), abs=1e-4)
    assert 0 <= right[0]["right"] <= 1 and right[0]["confident"] == pytest.approx(sum(right[0]["share"].values()))
    counts = json.loads((folder / "confusion.json").read_text())["counts"]
    assert sum(map(sum, counts["student"])) == 5 * 40 * 56 >= sum(map(sum, counts["pseudo"]))
    assert len(list((folder / "panels").glob("unlabeled-*-00000003.png"))) == len(list((folder / "panels").glob("evaluation-*-teacher.png"))) == 4
    with Image.open(folder / "panels" / "unlabeled-0-00000006.png") as panel:
        assert panel.mode == "P" and panel.info["transparency"] == 255
    report = (folder / "report.html").read_text()
    assert "ended" in report and "Confidence of the teacher" in report and results_of(folder)["lists"]["unlabeled"]["sha256"] in report


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def test_killed_at_any_moment_and_resumed_ends_in_the_same_bits(finished, tmp_path):
    """kill -9, in the middle of a cycle over the images, with dropout on, and another number of workers afterwards."""
    config, whole, _ = finished
    process = subprocess.Popen(command(config, tmp_path / "run"), env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not checkpoint.complete(tmp_path / "run" / "checkpoints") and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "run" / "results.json").exists()
    (tmp_path / "run" / "checkpoints" / ".writing-00000099").mkdir(exist_ok=True)  # half-written: never picked up
    resumed = train(config, tmp_path / "run", "--resume", "data.workers=1")
    assert resumed.returncode == 0, resumed.stderr
    assert "from step" in resumed.stderr
    assert_same_weights(state_of(whole), state_of(tmp_path / "run"))
    steps = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    said = {line["step"]: line["share"] for line in steps if line["kind"] == "teacher"}
    whole_log = map(json.loads, (whole / "log.jsonl").read_text().splitlines())
    assert said == {line["step"]: line["share"] for line in whole_log if line["kind"] == "teacher"}
    report = (tmp_path / "run" / "report.html").read_text()
    assert "resumed" in report and "1 times" in report


def test_a_segformer_with_drop_path_is_resumed_to_the_same_bits_too(tmp_path):
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "decoder_hidden_size": 8, "num_attention_heads": [1, 1, 2, 2]}
    model = {"architecture": "segformer", "encoder": "mit-b0", "pretrained": False,
             "encoder_config": {**sizes, "drop_path_rate": 0.3}}  # fmt: skip
    tree = {**TINY, "model": model, "data": {**TINY["data"], "crop": [64, 96]}, "schedule": {"steps": 4, "floor": 0.0}}
    config = write_config(tmp_path, tree=tree)
    for name in ("whole", "parts"):
        assert train(config, tmp_path / name).returncode == 0
    last = tmp_path / "parts" / "checkpoints" / "step-00000004"
    shutil.rmtree(last)  # as if it had been killed after step 2
    assert train(config, tmp_path / "parts", "--resume").returncode == 0
    assert_same_weights(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))


def test_sigterm_saves_says_so_and_the_run_goes_on_later(finished, tmp_path):
    config, whole, _ = finished
    process = subprocess.Popen(command(config, tmp_path / "run"), env=environment(), stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("step 1/"):
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)
            break
    rest = process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step" in rest and "the same command with --resume goes on" in rest
    assert state_of(tmp_path / "run")["step"] < 6
    assert train(config, tmp_path / "run", "--resume").returncode == 0
    assert_same_weights(state_of(whole), state_of(tmp_path / "run"))


def test_a_run_is_never_overwritten_and_never_resumed_with_another_config(finished):
    config, folder, _ = finished
    again = train(config, folder)
    assert again.returncode == 1 and "already holds a run; add --resume to go on with it" in again.stderr
    nothing = train(config, folder.parent / "none", "--resume")
    assert nothing.returncode == 1 and f"nothing to resume: {folder.parent / 'none' / 'checkpoints'} holds no checkpoint" in nothing.stderr
    assert not (folder.parent / "none").exists()
    other = train(config, folder, "--resume", "method.threshold=0.5")
    assert other.returncode == 1 and "method.threshold was 0.1 and is 0.5; use the command it was started with" in other.stderr


def test_a_checkpoint_from_before_a_key_was_there_is_resumed_with_its_default(finished, tmp_path):
    config, folder, _ = finished
    shutil.copytree(folder, tmp_path / "run")
    state = state_of(folder)
    del state["config"]["method"]["thresholds"], state["config"]["data"]["draft"]
    checkpoint.save(tmp_path / "run" / "checkpoints", state["step"], state, keep=2)
    assert train(config, tmp_path / "run", "--resume").returncode == 0
    other = train(config, tmp_path / "run", "--resume", "data.draft=true")
    assert other.returncode == 1 and "data.draft was False and is True" in other.stderr


def test_a_damaged_checkpoint_is_passed_over_in_words(finished, tmp_path):
    config, folder, _ = finished
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step-00000006" / "state.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    resumed = train(config, tmp_path / "run", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "state.pt does not match its SHA-256); taking the one before it" in resumed.stderr
    assert "from step 4" in resumed.stderr
    assert_same_weights(state_of(folder), state_of(tmp_path / "run"))


def test_a_loss_that_is_not_finite_stops_the_run_and_never_reaches_a_checkpoint(tmp_path):
    done = train(write_config(tmp_path), tmp_path / "run", "optimizer.lr=1e30", "run.log_every=3")
    assert done.returncode == 1
    assert "is not finite; lower optimizer.lr, set optimizer.clip_norm (to 1, say)" in done.stderr and "step " in done.stderr
    for folder in checkpoint.complete(tmp_path / "run" / "checkpoints"):
        state = torch.load(folder / "state.pt", weights_only=True)
        assert all(torch.isfinite(value).all() for value in state["student"].values())


def pictures(folder, count=6):
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for index in range(count):
        Image.effect_noise((56, 40), 60).convert("RGB").save(folder / "images" / f"{index}.png")
        Image.new("L", (56, 40), index % 2).save(folder / "masks" / f"{index}.png")
    (folder / "labeled.txt").write_text("0\n1\n")
    (folder / "validation.txt").write_text("2\n")
    data = {**TINY["data"], "source": "folder", "root": str(folder), "classes": ["ground", "thing"]}
    data |= {"labeled": "labeled.txt", "validation": "validation.txt"}
    data.pop("shapes")
    return write_config(folder, tree={**TINY, "data": data})


def test_a_corrupt_unlabelled_image_is_replaced_counted_and_named(tmp_path):
    config = pictures(tmp_path)
    (tmp_path / "images" / "4.png").write_bytes(b"no picture")
    done = train(config, tmp_path / "run", "schedule.steps=3")
    assert done.returncode == 0, done.stderr
    assert "replaced an unlabelled image, the 1. of this run: image" in done.stderr and "4.png" in done.stderr
    assert json.loads((tmp_path / "run" / "results.json").read_text())["replaced_images"] >= 1
    assert "two classes: NCR is left out" in done.stderr


def test_a_corrupt_labelled_image_is_an_error_that_names_it(tmp_path):
    config = pictures(tmp_path)
    (tmp_path / "images" / "1.png").write_bytes(b"no picture")
    done = train(config, tmp_path / "run", "data.workers=1")
    assert done.returncode == 1
    assert "1.png cannot be read" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_the_keys_of_a_section_are_printed_without_a_config():
    script = [sys.executable, str(ROOT / "train_semi.py"), "--help-config"]
    done = run([*script, "schedule"])
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "schedule") and "schedule.steps = 80000" in done.stdout
    done = run([*script, "shedule"])
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "train_semi.py: the config has no section shedule; use schedule")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--help-config"], ["--config"], ["--config", "none.json"], ["--config", "configs/demo.json", "a.b=1"]],
    ids=["help", "keys", "no value", "no file", "unknown key"],
)
def test_help_and_mistakes_in_arguments_and_config_load_no_heavy_library(arguments):
    code = (
        "import atexit, runpy, sys\nheavy = {'torch', 'transformers', 'datasets', 'accelerate'}\n"
        "atexit.register(lambda: print('loaded', sorted(heavy & sys.modules.keys())))\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    start = f"import sys; sys.argv = ['train_semi.py', *{arguments!r}]\n{code}"
    assert run([sys.executable, "-c", start], cwd=ROOT).stdout.endswith("loaded []\n")


def test_bad_input_is_one_sentence_before_anything_is_written(tmp_path):
    done = train(write_config(tmp_path), tmp_path / "run", "method.treshold=0.9")
    assert done.returncode == 1 and done.stderr.strip().endswith("unknown key method.treshold; did you mean method.threshold?")
    done = train(write_config(tmp_path), tmp_path / "run", "method.block=5")
    assert done.returncode == 1 and "method.block = 5 tokens are 80 pixels, which does not divide" in done.stderr
    assert not (tmp_path / "run").exists()


UNIMATCH = {"strong_views": 2, "strong_colour": "jitter", "mix": "cutmix_small", "mix_from": "second_batch",
            "normalizer": "valid", "regularizer_on": "strong"}  # fmt: skip
PLAIN = {"patch_shuffle": False, "pasa": "none", "regularizer": "none"}
IMAS = {"algorithm": "imas", "mix": "cutmix_hardness", "strong_colour": "randaugment", **PLAIN}
PSMT = {"algorithm": "psmt", "mix": "cutmix_beta", "teacher_turn": 1, **PLAIN}
U2PL = {"algorithm": "u2pl", "threshold": 0.0, "memory": 2000, **PLAIN}

UNIMATCH_V2 = {"strong_views": 2, "complementary_dropout": True, "mix": "cutmix_small", "normalizer": "valid"}
METHODS = {"S4Former": {}, "a group over both": {"mix_group": 4}, "UniMatch": UNIMATCH, "UniMatch V2": UNIMATCH_V2, "iMAS": IMAS, "PS-MT": PSMT,
           "U2PL": U2PL, "bf16": {"precision": "bf16"}}  # fmt: skip


@pytest.mark.parametrize("keys", METHODS.values(), ids=METHODS)
def test_two_processes_see_the_global_batches_of_one_and_get_its_gradient(tmp_path, keys):
    script = ROOT / "tests" / "two_processes.py"
    for processes, name in ((1, "one"), (2, "two")):
        done = run([sys.executable, str(script), str(tmp_path / f"{name}.pt"), json.dumps(keys)], processes=processes)
        assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    for field in ("labeled", "labels", "weak", "images", "valid", "boxes", "orders"):
        whole = two["batch"][field]
        if len(whole) == 8:  # each process has its images of the second batch behind its own
            whole = torch.cat([whole[[0, 1, 4, 5]], whole[[2, 3, 6, 7]]])
        if len(whole) == 6:  # each process has the partner that lies in the other one behind its own
            whole = whole[[0, 1, 3, 4]]
        assert torch.equal(one["batch"][field], whole), field
    assert one["gradients"].keys() == two["gradients"].keys()
    for name, gradient in one["gradients"].items():
        if "precision" not in keys:
            assert torch.allclose(gradient, two["gradients"][name], atol=1e-10), name
    whole, joint = (torch.cat([gradient.flatten() for gradient in each["gradients"].values()]) for each in (one, two))
    assert (whole - joint).norm() < 0.05 * whole.norm()
    for name, value in one["state"].items():
        assert torch.allclose(value, two["state"][name], atol=1e-10), name


@pytest.mark.parametrize("keys", [IMAS, PSMT, U2PL, {"thresholds": "calibrated", "threshold": 0.3}],
                         ids=["iMAS", "PS-MT", "U2PL", "calibrated"])  # fmt: skip
def test_what_needs_more_state_is_resumed_to_the_same_bits_in_two_processes_too(tmp_path, keys):
    data = {**TINY["data"], "shapes": {**TINY["data"]["shapes"], "labeled": 20}}
    method, schedule = {**TINY["method"], **keys, "burn_in": 1}, {"steps": 4, "floor": 0.0}
    config = write_config(tmp_path, tree={**TINY, "data": data, "method": method, "schedule": schedule})
    done = train(config, tmp_path / "whole", processes=2)
    assert done.returncode == 0, done.stderr
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "step-00000004")  # as if it had been killed after step 2
    (tmp_path / "parts" / "results.json").unlink()
    done = train(config, tmp_path / "parts", "--resume", processes=2)
    assert done.returncode == 0, done.stderr
    assert_same_weights(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))


def test_two_processes_train_and_stay_together(finished, tmp_path):
    done = train(write_config(tmp_path), tmp_path / "run", processes=2)
    assert done.returncode == 0, done.stderr
    assert "2 x cpu" in done.stderr
    assert json.loads((tmp_path / "run" / "results.json").read_text())["last"]["teacher"]["mean_iou"] > 0
    first = []
    for folder in (tmp_path / "run", finished[1]):
        lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
        first.append(next(line["pixels"] for line in lines if line["kind"] == "teacher"))
    assert first[0] == first[1]  # what both processes looked at is what one would have
    images, matrices = (json.loads((tmp_path / "run" / f"{name}.json").read_text()) for name in ("image_counts", "confusion"))
    for role in ("teacher", "student"):
        matrix, counts = np.array(matrices["counts"][role]), unpack_counts(images["counts"][role], len(images["classes"]))
        assert (counts.sum(axis=0) == [matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)]).all()
        assert (counts[:, 2].sum(axis=1) == 40 * 56).all() and len(counts) == len(images["ids"]) == 5


def test_evaluation_masks_without_a_single_label_are_an_error_in_words(tmp_path):
    config = pictures(tmp_path)
    Image.new("L", (56, 40), 255).save(tmp_path / "masks" / "2.png")
    done = train(config, tmp_path / "run", "schedule.steps=1", "method.teacher=none")
    assert done.returncode == 1 and "no evaluation image has a labelled pixel; check data.validation" in done.stderr


def test_the_last_evaluation_is_in_float32_as_that_of_evaluate_py_and_those_before_as_the_training(tmp_path):
    config = write_config(tmp_path)
    keys = ["run.mixed_precision=bf16", "schedule.steps=2", "evaluation.every=1"]
    result = train(config, tmp_path / "run", *keys)
    assert result.returncode == 0, result.stderr
    assert re.search(r"step 1: teacher mIoU [\d.]+, student mIoU [\d.]+ \(bf16\)", result.stderr)
    assert re.search(r"step 2: teacher mIoU [\d.]+, student mIoU [\d.]+ \(float32\)", result.stderr)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["precision"] for line in lines if line["kind"] == "evaluation/teacher"] == ["bf16", "float32"]
    last = json.loads((tmp_path / "run" / "results.json").read_text())["last"]
    for model in ("teacher", "student"):
        path = tmp_path / f"{model}.json"
        script = [sys.executable, str(ROOT / "evaluate.py"), "--checkpoint", str(tmp_path / "run"), "--model", model]
        done = run([*script, "--json", str(path)])
        assert done.returncode == 0, done.stderr
        report = json.loads(path.read_text())
        assert report["precision"] == "float32" and report["mean_iou"] == last[model]["mean_iou"]
        assert report["iou"] == last[model]["iou"]


def test_the_end_of_a_run_scores_windows_too_as_evaluate_py_does_and_names_the_better_mode(tmp_path):
    done = train(write_config(tmp_path), tmp_path / "run", "evaluation.short_side=40", "schedule.steps=2", "evaluation.every=1")
    assert done.returncode == 0, done.stderr
    last = json.loads((tmp_path / "run" / "results.json").read_text())["last"]
    whole, windows = last["teacher"]["mean_iou"], last["teacher"]["other_mode"]["mean_iou"]
    assert last["teacher"]["other_mode"]["mode"] == "sliding" and "other_mode" not in last["student"]
    flag = " --sliding-window" if windows > whole else ""
    assert re.search(rf"best on .*on windows {100 * windows:.2f}|best on windows \({100 * windows:.2f} mIoU; ", done.stderr)
    assert f"--checkpoint {tmp_path / 'run'}{flag}\n" in done.stderr
    script = [sys.executable, str(ROOT / "evaluate.py"), "--checkpoint", str(tmp_path / "run"), "--json", str(tmp_path / "it.json")]
    assert run([*script, "--sliding-window"]).returncode == 0
    assert json.loads((tmp_path / "it.json").read_text())["mean_iou"] == windows


def test_a_deterministic_run_ends_in_the_same_bytes(tmp_path):
    """Twice; and on a CPU, where it changes nothing, in those of a run without it."""
    config = write_config(tmp_path)
    keys = {"one": "true", "two": "true", "without": "false"}
    for name, wanted in keys.items():
        result = train(config, tmp_path / name, f"run.deterministic={wanted}", "run.mixed_precision=bf16", "schedule.steps=3")
        assert result.returncode == 0, result.stderr
    for model in ("teacher", "student"):
        one, *others = ((tmp_path / name / model / "model.safetensors").read_bytes() for name in keys)
        assert all(other == one for other in others)
