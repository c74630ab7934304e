"""The user's trackers (TensorBoard, W&B, MLflow, ...): they get numbers, pictures and the config, and none of them ends a run."""

import os
import re
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from PIL import Image

from ..errors import ConfigError
from ..networks.hub import first_line

PROJECT = "s4former"


def check_trackers(names: Sequence[str]) -> None:
    """Refuses trackers that are not installed, which Accelerate would leave out silently."""
    for name in names:
        if name != "all" and name not in map(str, get_available_trackers()):
            raise ConfigError(f"run.trackers has {name!r}, which is not installed; pip install it, or take it out")


class Trackers:
    """One that fails, at whatever, is left out from then on, with a line for the log."""

    def __init__(self, accelerator: Accelerator, folder: Path, config: dict[str, Any], say: Callable[[str], None]):
        self.say, self.started = say, []
        if "mlflow" in map(str, accelerator.log_with):  # else it writes where the command was given
            os.environ.setdefault("MLFLOW_TRACKING_URI", (folder / "mlruns").absolute().as_uri())
        for name in map(str, accelerator.log_with):
            self.attempt(name, lambda: self.start(name, folder, config))

    def start(self, name: str, folder: Path, config: dict[str, Any]) -> None:
        """Its files lie in the folder of the run, and the run has the name of the folder, as each tracker calls that."""
        options = {
            "wandb": {"dir": str(folder), "name": folder.name},
            "swanlab": {"logdir": str(folder / "swanlab"), "experiment_name": folder.name},
            "dvclive": {"dir": str(folder / "dvclive")},
            "mlflow": {"run_name": folder.name},
            "clearml": {"task_name": folder.name},
            "trackio": {"name": folder.name},
        }.get(name, {})
        kind = LOGGER_TYPE_TO_CLASS[name]
        place = (folder,) if kind.requires_logging_directory else ()
        tracker = kind(folder.name if name == "aim" else PROJECT, *place, **options)  # aim knows no project
        tracker.start()
        if name == "comet_ml":
            tracker.tracker.set_name(folder.name)
        tracker.store_init_configuration({key: str(value) for key, value in config.items()})
        self.started.append(tracker)

    def attempt(self, name: str, act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as error:  # their errors are of every kind: a login, a network, a name they do not like
            self.started = [tracker for tracker in self.started if tracker.name != name]
            warning = f"warning: {name} gets nothing of this run from here on ({first_line(error)})"
            self.say(f"{warning}; log.jsonl and report.html have it all")

    def log(self, values: dict[str, float], step: int) -> None:
        """Numbers by name; what some trackers refuse in a name, as in `fish (dead)`, becomes _."""
        cleaned = {re.sub(r"[^\w\-./ ]", "_", name): value for name, value in values.items()}
        for tracker in list(self.started):
            self.attempt(tracker.name, lambda: tracker.log(cleaned, step=step))

    def log_images(self, files: Sequence[Path], step: int) -> None:
        for tracker in list(self.started):
            if hasattr(tracker, "log_images"):  # not all of them take pictures
                options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                pictures = {file.stem: np.array(Image.open(file).convert("RGB")) for file in files}
                if tracker.name != "aim":  # which takes one of a name, the others several
                    pictures = {name: picture[None] for name, picture in pictures.items()}
                self.attempt(tracker.name, lambda: tracker.log_images(pictures, step=step, **options))

    def close(self) -> None:
        for tracker in list(self.started):
            self.attempt(tracker.name, tracker.finish)
