from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from s4former.config import Tracker, from_dict
from s4former.errors import ConfigError
from s4former.training import trackers
from s4former.training.trackers import Trackers, check_trackers


def test_a_tracker_that_is_unknown_or_not_installed_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"run.trackers\[0] is 'tensorbord'; one of .*'tensorboard'"):
        from_dict({"run": {"trackers": ["tensorbord"]}})
    check_trackers(["all", "tensorboard"])
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: [])
    with pytest.raises(ConfigError, match="run.trackers has 'tensorboard', which is not installed; pip install it"):
        check_trackers(["tensorboard"])


def test_the_names_in_the_config_are_those_of_accelerate():
    assert sorted(get_args(Tracker)) == sorted(["all", *LOGGER_TYPE_TO_CLASS])


def test_tensorboard_gets_numbers_and_pictures_in_the_folder_of_the_run(tmp_path):
    said = []
    started = Trackers(Accelerator(cpu=True, log_with="tensorboard", project_dir=tmp_path), tmp_path, {"run.seed": 1}, said.append)
    Image.fromarray(np.full((4, 6), 2, np.uint8)).save(tmp_path / "evaluation-0-truth.png")
    started.log({"iou/fish (dead)": 0.5}, step=3)
    started.log_images([tmp_path / "evaluation-0-truth.png"], step=3)
    started.close()
    events = EventAccumulator(str(tmp_path / "s4former")).Reload()
    assert events.Scalars("iou/fish _dead_")[0].value == 0.5 and events.Images("evaluation-0-truth")[0].width == 6
    assert said == []


@pytest.mark.parametrize("fails_at", ["start", "log", "log_images", "finish"])
def test_a_tracker_that_fails_is_left_out_with_a_line_and_the_others_go_on(fails_at, tmp_path, monkeypatch):
    said, got = [], []

    class Broken(GeneralTracker):
        name, requires_logging_directory, tracker = "wandb", False, None

        def __init__(self, project, dir, name):
            super().__init__()
            assert (dir, name) == (str(tmp_path), tmp_path.name)

        def act(self, method, *arguments):
            got.append(method)
            if method == fails_at:
                raise RuntimeError("no login\nuse wandb login")

        def start(self):
            self.act("start")

        def store_init_configuration(self, values):
            assert values == {"run.seed": "1"}

        def log(self, values, step):
            self.act("log")

        def log_images(self, values, step):
            self.act("log_images")

        def finish(self):
            self.act("finish")

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Broken)
    started = Trackers(SimpleNamespace(log_with=["wandb"]), tmp_path, {"run.seed": 1}, said.append)
    started.log({"loss": 1.0}, step=1)
    started.log_images([], step=1)
    started.close()
    order = ["start", "log", "log_images", "finish"]
    assert got == order[: order.index(fails_at) + 1]
    assert said == ["warning: wandb gets nothing of this run from here on (no login); log.jsonl and report.html have it all"]


@pytest.mark.parametrize("name", ["aim", "comet_ml", "wandb", "swanlab", "mlflow", "clearml", "trackio", "dvclive"])
def test_a_tracker_gets_the_name_of_the_run_or_its_folder(name, tmp_path, monkeypatch):
    given = []

    class Stub(GeneralTracker):
        requires_logging_directory = LOGGER_TYPE_TO_CLASS[name].requires_logging_directory
        tracker = SimpleNamespace(set_name=given.append)

        def __init__(self, *arguments, **options):
            super().__init__(_blank=True)
            given.extend(map(str, [*arguments, *options.values()]))

        start = log = finish = lambda self, *arguments, **options: None
        store_init_configuration = lambda self, values: None  # noqa: E731

    said, folder = [], tmp_path / "voc_92"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, name, type(name, (Stub,), {"name": name}))
    Trackers(SimpleNamespace(log_with=[name]), folder, {}, said.append).close()
    assert said == [] and any(each in ("voc_92", str(folder / "dvclive")) for each in given)
