"""Evaluates a segmentation model: mean IoU, IoU per class, pixel accuracy; or predicts class maps of photos without masks.

    s4former evaluate                                     the newest run below runs/, its teacher if it has one
    s4former evaluate --checkpoint runs/demo --model student --best
    s4former evaluate --checkpoint FOLDER_OR_HUB_ID --config configs/voc_92.json data.root=/data/VOC
    s4former evaluate --images photos/ more/ --save-predictions out  no masks: class maps, overlays and a sheet
    torchrun --nproc_per_node 2 evaluate.py ...           the script does the same; every image counts exactly once
"""

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any, Sequence

from ..config import Config, from_dict, read_tree, set_override
from ..data.sources import check_root
from ..errors import ConfigError, reports_errors
from ..evaluation.model_choice import ROLES, CheckpointError, ModelChoice
from ..evaluation.photo_files import check_output, find_photos
from .chosen_model import choose_model

FLAGS = ("mode", "window", "stride", "short_side", "scales", "flip", "batch", "limit")  # keys of `evaluation`


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `s4former evaluate` and `s4former predict` have in common: which model, and how it reads images."""
    add, size = parser.add_argument, {"nargs": 2, "type": int, "metavar": ("H", "W")}
    add("--checkpoint", metavar="DIR_OR_HUB_ID", help="a run, a model in it, or a Hub id; default: the newest run")
    add("--config", metavar="FILE", help="instead of the config beside the model")
    add("--model", choices=ROLES, help="of a run; default: the teacher where there is one")
    add("--best", action="store_true", help="the best of the run, chosen on the evaluation images, not the last")
    add("--sliding-window", dest="mode", action="store_const", const="sliding", help="average overlapping windows")
    add("--window", **size, help="of the sliding window; default: the training crop")
    add("--stride", **size, help="of the sliding window; default: two thirds of the window")
    add("--short-side", type=int, metavar="N", help="to which images are resized first; 0 = not at all")
    add("--scales", nargs="+", type=float, metavar="S", help="average over several sizes, such as 0.75 1 1.25")
    add("--flip", action="store_const", const=True, help="average with the mirrored image")
    add("--batch", type=int, metavar="N", help="images of one size, or windows, at once")
    add("--limit", type=int, metavar="N", help="only the first N images")
    add("--json", metavar="FILE", help="write the report; - for standard output")


def resolve_config(choice: ModelChoice, options: argparse.Namespace) -> Config:
    """The config to evaluate with: --config or what lies beside the model, then the overrides, then the flags."""
    tree = read_tree(Path(options.config)) if options.config else choice.config
    if not tree and not options.images and not any(override.startswith("data.") for override in options.overrides):
        raise CheckpointError(
            f"{choice.source} does not say on which data to test it (it has no s4former.json); add --config FILE, or"
            " data.source=... data.root=... and the like"
        )
    flags = [f"evaluation.{name}={json.dumps(vars(options)[name])}" for name in FLAGS if vars(options)[name] is not None]
    for override in ["evaluation.limit=0", *options.overrides, *flags]:  # the limit beside a model is that of its training
        set_override(tree, override)
    config = from_dict(tree)
    if not options.images:
        check_root(config.data)
    if config.evaluation.mode == "whole" and (options.window or options.stride):
        raise ConfigError("--window and --stride say how windows slide; add --sliding-window")
    if options.label_ids and not options.save_predictions:
        raise ConfigError("--label-ids says what to write; say where it goes with --save-predictions DIR")
    if options.images and not options.save_predictions:
        raise ConfigError("--images says what to read; say where the class maps go with --save-predictions DIR")
    if options.save_predictions:
        check_output(Path(options.save_predictions))
    options.photos = find_photos(options.images, options.save_predictions) if options.images else {}
    if options.json not in (None, "-") and not Path(options.json).absolute().parent.is_dir():
        raise ConfigError(f"--json {options.json}: there is no such folder to write it into; make it first")
    return config


def format_scores(report: dict[str, Any]) -> str:
    """The report of `score_dataset` as a table."""
    width = max(len(name) for name in [*report["iou"], "pixel accuracy"])
    rule = "-" * (width + 8)
    row = lambda name, value: f"{name:{width}}  {'-' if value is None else format(100 * value, '.2f'):>6}"  # noqa: E731
    lines = [f"{'class':{width}}     IoU", rule, *(row(*item) for item in report["iou"].items()), rule]
    lines += [row("mean IoU", report["mean_iou"]), row("pixel accuracy", report["pixel_accuracy"]), ""]
    if None in report["iou"].values():
        lines += ["-: in neither labels nor predictions, left out of the mean", ""]
    evaluation, mode = report["evaluation"], "whole images"
    if evaluation["mode"] == "sliding":
        mode = "windows of {}x{} every {}x{} pixels".format(*evaluation["window"], *evaluation["stride"])
    size = f"shorter side {evaluation['short_side']}" if evaluation["short_side"] else "original size"
    return "\n".join([*lines, f"{report['images']} images, {mode}, {size}: {report['images_per_second']} images/s"])


def format_photos(report: dict[str, Any]) -> str:
    """Where the class maps of `predict_photos` are, and which photos could not be read."""
    files = f"{report['folder']}: masks/ (class ids), overlays/ and sheet.png"
    lines = [f"{report['images']} images in {files}; {report['images_per_second']} images/s"]
    if report["unreadable"]:
        lines += ["", f"{len(report['unreadable'])} could not be read, the others are done:", *report["unreadable"]]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, program: str = "s4former evaluate") -> int:
    parser = argparse.ArgumentParser(program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="set one key of the config")
    photos = "predict files, folders or 'globs' of photos instead of evaluating"
    parser.add_argument("--images", nargs="+", action="extend", default=[], metavar="PATH", help=photos)
    parser.add_argument("--save-predictions", metavar="DIR", help="write palette PNGs and overlays")
    ids = "and label_ids/: grey PNGs in the ids of the data's masks, named as the images, as the server of Cityscapes takes them"
    parser.add_argument("--label-ids", action="store_true", help=ids)
    return reports_errors(program)(run)(parser.parse_intermixed_args(arguments))


def run(options: argparse.Namespace) -> int:
    """Evaluates or predicts, prints the report, and returns the status of the program."""
    keys = [word for word in options.images if re.match(r"[a-z_]+(\.\w+)+=", word) and not os.path.exists(word)]
    options.images, options.overrides = [word for word in options.images if word not in keys], [*options.overrides, *keys]
    if keys and not options.images:
        raise ConfigError(f"no photos are given, {keys[0]} is a key of the config; name files, folders or globs")
    choice = choose_model(options.checkpoint, options.model, options.best)
    config = resolve_config(choice, options)

    from .evaluate_model import evaluate_model  # not before the arguments are checked: torch takes seconds

    report, is_main_process = evaluate_model(choice, config, options)
    if is_main_process:
        text = json.dumps(report, indent=2)
        print(text if options.json == "-" else format_photos(report) if options.images else format_scores(report))
        if options.json not in (None, "-"):
            Path(options.json).write_text(text + "\n")
    return 1 if report.get("unreadable") else 0
