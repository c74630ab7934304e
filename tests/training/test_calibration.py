"""calibration.py: the share of right pixels among the confident ones of held-out images, and what it does to a step."""

import pytest
import torch
from accelerate import Accelerator
from scripts import TINY

from s4former.benchmark.inputs import randomize_classifier
from s4former.config import from_dict
from s4former.data.held_out import CROPS
from s4former.data.sources import load_sources
from s4former.method.batch import normalize
from s4former.training import calibration
from s4former.training.calibration import calibrate
from s4former.training.engine import update
from s4former.training.run import build_training

SHAPES = {**TINY["data"]["shapes"], "labeled": 20}


def training_of(tmp_path, threshold, steps=100, **method):
    method = {**TINY["method"], "thresholds": "calibrated", "threshold": threshold, **method}
    tree = {**TINY, "data": {**TINY["data"], "shapes": SHAPES}, "method": method, "schedule": {"steps": steps}}
    config = from_dict(tree)
    training = build_training(config, load_sources(config.data), tmp_path, Accelerator(cpu=True))
    torch.manual_seed(0)
    randomize_classifier(training.teacher.network)
    return training


class Log:
    def __init__(self):
        self.records, self.lines = [], []

    def record(self, kind, values):
        self.records.append({"kind": kind, **values})

    def say(self, text):
        self.lines.append(text)


def test_the_share_agrees_with_a_loop_over_pixels(tmp_path):
    training = training_of(tmp_path, 0.5)
    mean, std = (torch.tensor(values)[:, None, None] for values in (training.setting.mean, training.setting.std))
    right = confident = pixels = 0
    for number in range(CROPS):
        image, labels, valid = training.held_out.crop(0, number)
        p = training.teacher((normalize(image, mean, std) * valid)[None])[0].softmax(0)
        k = labels.shape[0] // p.shape[1]
        for i in range(p.shape[1]):
            for j in range(p.shape[2]):
                label = labels[i * k, j * k].item()
                if label != 255:
                    sure = (p[:, i, j].max() > 0.5).item()
                    pixels, confident, right = pixels + 1, confident + sure, right + (sure and p[:, i, j].argmax().item() == label)
    log = Log()
    calibrate(training, log)
    (record,) = log.records
    assert 0 < right < confident < pixels
    assert record["right"] == pytest.approx(right / confident, abs=1e-5) and record["confident"] == pytest.approx(confident / pixels, abs=1e-5)
    thresholds = training.accelerator.unwrap_model(training.student).thresholds
    assert thresholds.right.item() == pytest.approx(right / confident)


def test_it_is_measured_fifty_times_in_a_run_but_not_more_often_than_every_20_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "measure", lambda training, number: numbers.append((training.step, number)) or (9, 10, 20))
    for steps, burn_in, expected in ((60, 10, [10, 30, 50]), (2000, 0, [0, 40, 80])):
        training, numbers = training_of(tmp_path, 0.95, steps, burn_in=burn_in), []
        for training.step in range(steps):
            calibrate(training, Log())
        assert numbers[:3] == [(step, number) for number, step in enumerate(expected)]
    assert len(numbers) == 50


def test_without_a_confident_pixel_the_threshold_stays_strict_and_the_log_says_both(tmp_path, monkeypatch):
    training, log = training_of(tmp_path, 0.9), Log()
    thresholds = training.accelerator.unwrap_model(training.student).thresholds
    for found in ((0, 0, 20), (8, 10, 20), (0, 0, 20), (9, 10, 20)):
        monkeypatch.setattr(calibration, "measure", lambda training, number: found)
        calibrate(training, log)
        thresholds.confidence.fill_(0.8)
    assert log.lines == [
        "step 0: of the held-out pixels more than 0.9 sure there is none: the threshold stays",
        "step 0: of the held-out pixels more than 0.9 sure 80.0% are right: the threshold is 0.76, weights are the confidence",
        "step 0: of the held-out pixels more than 0.9 sure there is none: the threshold is 0.76, weights are the confidence",
        "step 0: of the held-out pixels more than 0.9 sure 90.0% are right: the threshold stays",
    ]
    assert [record["right"] for record in log.records] == [None, 0.8, None, 0.9]


def test_a_strict_step_is_that_of_a_fixed_threshold_to_the_bit_and_a_lowered_one_is_not(tmp_path):
    found = {}
    for name, keys, right in (("fixed", {"thresholds": "fixed"}, None), ("strict", {}, 1.0), ("lowered", {}, 0.1)):
        training = training_of(tmp_path, 0.9, **keys)
        training.steps = training_of(tmp_path, 0.9).steps  # a fixed threshold holds no images out
        thresholds = training.accelerator.unwrap_model(training.student).thresholds
        if thresholds is not None:
            thresholds.right.fill_(right)
            thresholds.confidence.fill_(0.5)
        batch = training.to_device(training.steps.batch(0, 0))
        found[name] = update(training.accelerator, training.student, training.teacher, training.optimizer, [batch], 0, training.config)
        assert thresholds is None or thresholds.confidence > 0.5
    assert all(torch.equal(term, found["strict"][name]) for name, term in found["fixed"].items())
    assert found["lowered"]["confident"] > found["strict"]["confident"]
