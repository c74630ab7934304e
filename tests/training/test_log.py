import io
import json
from types import SimpleNamespace

import pytest
import torch

from s4former.config import from_dict
from s4former.report.run import read_log
from s4former.training.log import RunLog, read_terms


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_moves_every_step_fits_80_columns_and_knows_burn_in_and_evaluations(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    config = from_dict({"schedule": {"steps": 80000, "warm_up": 0}, "method": {"burn_in": 39999}})
    training = SimpleNamespace(
        config=config, folder=tmp_path, accelerator=SimpleNamespace(is_main_process=True, log_with=[], reduce=max), step=39998,
        seconds=0.0, replaced=0, evaluation_due=False, images_until=lambda step: 123 * step,
        pseudo_counts=SimpleNamespace(compute=lambda step, total: None),
    )  # fmt: skip
    log, seen = RunLog(training), []
    for values in ({}, {"confident": 0.99}):
        training.step += 1
        log.count_step([], seconds=1.0, waited=0.5)
        assert log.bar.n == training.step
        log.progress({"loss/total": 10.123, "loss/supervised": 9.0, **values})
        seen.append(str(log.bar))
    log.show_phase("evaluating")
    assert seen[0].startswith("burn-in  50%|") and seen[1].startswith(" 50%|") and str(log.bar).startswith("evaluating  50%|")
    assert seen[1].endswith("left, loss 10.123, confident 99%, 123.0 img/s]") and max(map(len, seen)) <= 80
    log.close()


def test_a_resumed_log_has_no_line_twice_and_replaced_images_are_those_of_all_processes(tmp_path, monkeypatch):
    kinds = ("start", "train", "evaluation/teacher", "cost", "calibration")
    training = SimpleNamespace(
        config=from_dict({}), folder=tmp_path, accelerator=SimpleNamespace(is_main_process=True, log_with=[]), step=3,
        seconds=0.0, replaced=0, evaluation_due=True,
    )  # fmt: skip
    for training.evaluation_due, kept in ((True, ["start", "train"]), (False, ["start", "train", "evaluation/teacher", "cost"])):
        lines = [json.dumps({"kind": kind, "step": step}) + "\n" for step in (2, 3, 4) for kind in kinds]
        (tmp_path / "log.jsonl").write_text("".join(lines))
        log = RunLog(training)
        assert [(entry["kind"], entry["step"]) for entry in read_log(tmp_path / "log.jsonl")] == [
            *((kind, 2) for kind in kinds), *((kind, 3) for kind in kept)
        ]  # fmt: skip
        log.close()
    monkeypatch.setattr("s4former.training.log.gather_object", lambda own: [*own, (4, "of the other process")])
    log = RunLog(training)
    log.count_step([SimpleNamespace(replaced=("own",))], 1.0, 0.5, joint=False)
    assert training.replaced == 0
    log.count_step([], 1.0, 0.5, joint=True)
    log.close()
    assert training.replaced == 2 and not log.unread
    assert [entry["reason"] for entry in read_log(tmp_path / "log.jsonl") if entry["kind"] == "replaced"] == ["own", "of the other process"]


def test_the_learning_rate_of_the_log_is_that_of_the_config_whichever_group_is_first():
    config = from_dict({"method": {"burn_in": 2}, "schedule": {"restart": 0.3}})
    optimizer = SimpleNamespace(param_groups=[{"lr": 1.0}])  # of the head, under model.freeze=-1
    training = SimpleNamespace(
        config=config, step=3, optimizer=optimizer, finite=SimpleNamespace(raise_if_not_finite=lambda: None),
        accelerator=SimpleNamespace(reduce=lambda values, reduction: values),
    )  # fmt: skip
    terms = {name: torch.ones(()) for name in ("total", "supervised", "gradient")}
    assert read_terms(training, terms)["learning_rate"] == pytest.approx(3e-4)


def test_trackers_get_the_numbers_of_a_mapping_too():
    log, got = RunLog.__new__(RunLog), []
    log.main, log.file, log.training = True, io.StringIO(), SimpleNamespace(step=7)
    log.trackers = SimpleNamespace(log=lambda values, step: got.append((values, step)))
    log.record("teacher", {"confident": 0.5, "share": {"leaf": 0.25, "bud": None}, "classes": ["leaf"], "ended": True})
    assert got == [({"teacher/confident": 0.5, "teacher/share/leaf": 0.25}, 7)]
    assert '"share": {"leaf": 0.25, "bud": null}' in log.file.getvalue()
