"""Writes report.html of a run again, from what lies in its folder: a run that is training, was killed, or has ended.

    s4former report runs/demo

One HTML file that refers to nothing outside itself, by the templates page.html and style.css.
"""

import argparse
import base64
import json
import shlex
import time
from itertools import cycle, permutations
from mimetypes import guess_type
from pathlib import Path
from typing import Sequence
from xml.etree.ElementTree import tostring

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..config import Config, flatten, from_dict, to_dict
from ..errors import reports_errors
from ..evaluation.pictures import display_colours, has_background, spread
from ..files import write_text
from .charts import Series, curves, format_number, histogram, matrix, sparkline, stacked
from .run import Run, compare_modes, read_run

COLOURS = ("var(--teacher)", "var(--student)", "var(--third)", "var(--fourth)", "var(--faint)")
ROLE_COLOURS = {"teacher": COLOURS[0], "student": COLOURS[1]}
MAX_STEPS = 5  # at which the pseudo labels of the unlabelled images are shown
MAX_MISTAKES = 8  # pairs of classes listed beside the confusion matrix
FILTERS = {
    "number": format_number,
    "percent": lambda value: "-" if value is None else f"{100 * value:.1f}",
    "json": json.dumps,
    "svg": lambda chart: Markup(tostring(chart, encoding="unicode")),
    "data_uri": lambda path: f"data:{guess_type(path)[0]};base64,{base64.b64encode(path.read_bytes()).decode()}",
}


@reports_errors("s4former report")
def main(arguments: Sequence[str] | None = None) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("s4former report", description=__doc__, formatter_class=raw)
    parser.add_argument("run", help="folder of the run")
    print(write_report(parser.parse_args(arguments).run))


def write_report(folder: str | Path) -> Path:
    """Writes FOLDER/report.html from what lies in the folder, whole or not at all."""
    path = Path(folder) / "report.html"
    write_text(path, render_report(read_run(folder)))
    return path


def render_report(run: Run) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= FILTERS
    environment.globals |= {"curves": curves, "stacked": stacked, "histogram": histogram, "sparkline": sparkline, "matrix": matrix}
    keys = ("source", "palette", "colours", "id_map", "ignore_index")
    data = from_dict({"data": {key: value for key, value in run.config["data"].items() if key in keys}}).data
    colours = ["#%02x%02x%02x" % tuple(colour) for colour in display_colours(run.classes, data).tolist()]
    classes = [Series(name, run.curve("teacher", "share", name), colour) for name, colour in zip(run.classes, colours)]
    start, starts, defaults = run.last("start"), len(run.entries["start"]), flatten(to_dict(Config()))
    steps, method = run.config["schedule"]["steps"], run.config["method"]
    modes, flag = compare_modes(run.config["evaluation"], run.last(f"evaluation/{run.roles[0]}")) if run.roles else ("", "")
    resumed = [("resumed", f"{starts - 1} times")] if starts > 1 else []
    return environment.get_template("page.html").render(
        run=run, start=start, until=max(steps, run.step), steps=steps, modes=modes, flag=flag,
        burn_in=method["burn_in"] if method["teacher"] != "none" else 0, **curve_series(run), role_colours=ROLE_COLOURS,
        classes=classes, background=run.classes[0] if has_background(run.classes) else None,
        pseudo_steps=pseudo_steps(run), advice=threshold_advice(run), mistakes=most_frequent_mistakes(run),
        folder=shlex.quote(str(run.folder)),
        role_columns=[(role, f"{role}.png") for role in run.roles], written=time.strftime("%Y-%m-%d %H:%M"),
        lists=[(name, each["images"], each["sha256"]) for name, each in start["lists"].items()],
        programs=[*start["versions"].items(), ("device", start["device"]), ("precision", start["precision"]), *resumed],
        changed=[(key, json.dumps(value)) for key, value in flatten(run.config).items() if defaults.get(key) != value],
    )  # fmt: skip


def curve_series(run: Run) -> dict[str, list[Series]]:
    losses = [key for key in run.last("train") if key.startswith("loss/") and key != "loss/total"]
    return {
        "scores": [Series(role, run.curve(f"evaluation/{role}", "mean_iou"), ROLE_COLOURS[role]) for role in run.roles],
        "losses": [Series(key[5:], run.curve("train", key), colour) for key, colour in zip(losses, cycle(COLOURS))],
        "confident": [
            Series("pseudo labels", run.curve("train", "confident"), COLOURS[0]),
            Series("right, on the evaluation images", run.curve("evaluation/pseudo", "right"), COLOURS[2]),
            Series("right, on held-out labels", run.curve("calibration", "right"), COLOURS[3]),
        ],
        "learning_rate": [Series("optimizer.lr", run.curve("train", "learning_rate"), COLOURS[3])],
    }


def threshold_advice(run: Run) -> str:
    """What the share of right pixels among the confident ones says about the threshold; empty where nothing was measured."""
    method, calibration = run.config["method"], run.last("calibration")
    right = calibration.get("right", run.last("evaluation/pseudo").get("right"))
    if right is None or "teacher" not in run.entries:
        return ""
    images = "held-out labelled" if calibration else "evaluation"
    found = f"Of the confident pixels of the {images} images {right:.1%} are right, and the threshold is {method['threshold']:g}: "
    if right >= method["threshold"]:
        return found + "they are right as often as it asks for, and a lower one would let more mistakes in."
    if calibration:
        return found + f"fewer than it asks for, so pixels above {calibration['threshold']:.2f} weigh as much as their confidence."
    return found + (
        "fewer than it asks for. method.thresholds=calibrated holds a twentieth of the labels out, and lets pixels weigh as"
        " much as their confidence while that is so."
    )


def pseudo_steps(run: Run) -> list[tuple[str, str]]:
    """Column titles and file endings of pseudo labels at steps evenly spaced, at most MAX_STEPS."""
    steps = sorted({path.stem.rsplit("-", 1)[1] for path in (run.folder / "panels").glob("unlabeled-*.png")})
    steps = [step for step in steps if int(step) <= run.step]  # a run that was resumed from before has later ones
    steps = [step for step in steps if int(step) > run.config["method"]["burn_in"]] or steps[-1:]  # before, there are hardly any
    return [(f"step {int(steps[index])}", f"{steps[index]}.png") for index in spread(len(steps), MAX_STEPS)]


def most_frequent_mistakes(run: Run) -> list[tuple[str, str, str, str]]:
    """(truth, prediction, percent of all pixels, percent of the pixels of the true class) of the network to use."""
    if not run.confusion or not run.roles:
        return []
    counts, names = run.confusion["counts"][run.roles[0]], run.confusion["classes"]
    pairs = [(counts[t][p], t, p) for t, p in permutations(range(len(names)), 2) if counts[t][p]]
    percent, pixels, pairs = FILTERS["percent"], sum(map(sum, counts)), sorted(pairs, reverse=True)[:MAX_MISTAKES]
    return [(names[t], names[p], percent(n / pixels), percent(n / sum(counts[t]))) for n, t, p in pairs]
