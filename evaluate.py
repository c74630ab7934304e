"""Tests a segmentation model: mean IoU, IoU per class, pixel accuracy.

    python evaluate.py                                    the newest run below runs/, its teacher if it has one
    python evaluate.py --checkpoint runs/demo --model student --best
    python evaluate.py --checkpoint FOLDER_OR_HUB_ID --config configs/voc_92.json data.root=/data/VOC
    torchrun --nproc_per_node 2 evaluate.py ...           every image still counts exactly once

(The script shares its name with Hugging Face's `evaluate` package; s4former.hf_evaluate finds that one.)
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Sequence

import torch
from accelerate import Accelerator
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.utils import cached_file

from s4former.config import Config, ConfigError, from_dict, set_override, to_dict
from s4former.data import validation_set
from s4former.engine import precision
from s4former.inference import Setting, count, predictions
from s4former.metrics import ConfusionMatrix
from s4former.models import load_network, logits_at
from s4former.pictures import overlay, palette_png
from s4former.reading import DataError

RUNS = Path("runs")
ROLES = ("teacher", "student")  # in order of preference


class CheckpointError(ValueError):
    """A checkpoint that cannot be evaluated; the message says which, why, and what to give instead."""


@dataclass(frozen=True)
class Choice:
    """The model that was asked for.

    source: its folder, or an id on the Hub.    config: what lies beside it, as nested dicts; empty if nothing does.
    """

    source: str
    description: str
    config: dict[str, Any]


# ---- which model ---------------------------------------------------------------------------------------------------


def choose(options: argparse.Namespace) -> Choice:
    """The model that the options name: one of a run, an exported folder, or a Hub id."""
    if options.checkpoint is None:
        run = newest_run(RUNS)
        return model_of_run(run, options, f"the newest run, {run}: ")
    folder = Path(options.checkpoint)
    if is_run(folder):
        return model_of_run(folder, options, f"{folder}: ")
    if options.model or options.best:
        raise CheckpointError(
            f"--model and --best choose among the models of a run, and {options.checkpoint} is not the folder of one;"
            " leave them out, or give the folder that holds teacher/ or student/"
        )
    if folder.exists() and not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json, so it is neither a run nor an exported model; give a folder that"
            " train_semi.py wrote, or one of the models in it"
        )
    if not folder.exists() and not looks_like_hub_id(options.checkpoint):
        raise CheckpointError(f"there is no folder {folder}; give a run, an exported model, or the id of one on the Hub")
    if file_of(options.checkpoint, "config.json") is None:
        raise CheckpointError(f"{options.checkpoint!r} is no folder here and cannot be had from the Hub (no config.json of it)")
    return Choice(options.checkpoint, options.checkpoint, config_beside(options.checkpoint))


def model_of_run(run: Path, options: argparse.Namespace, prefix: str) -> Choice:
    """The teacher or student of a run, last or best."""
    moment = "best-" if options.best else ""
    there = [role for role in ROLES if (run / f"{moment}{role}" / "config.json").is_file()]
    if not there:
        raise CheckpointError(f"{run} has no {moment}teacher/ or {moment}student/ yet; train_semi.py writes them when it ends")
    role = options.model or there[0]
    if role not in there:
        raise CheckpointError(f"{run} has no {moment}{role}/, only a {there[0]}; leave out --model or write --model {there[0]}")
    remark = "best (chosen on the evaluation images)" if options.best else "last"
    return Choice(str(run / f"{moment}{role}"), f"{prefix}{role}, {remark}", read_json(run / "config.json"))


def newest_run(root: Path) -> Path:
    """The run below `root` that was started last and has a model."""
    runs = sorted(
        (path.parent for path in root.rglob("config.json") if is_run(path.parent)),
        key=lambda run: (run / "config.json").stat().st_mtime,
        reverse=True,
    )
    for run in runs:
        if any((run / f"{moment}{role}" / "config.json").is_file() for role in ROLES for moment in ("", "best-")):
            return run
    state = f"the runs below {root}/ have no model yet" if runs else f"there is no run below {root}/"
    raise CheckpointError(f"{state}; train one with train_semi.py, or say which model with --checkpoint")


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run: its config.json has our sections, not the keys of a transformers model."""
    path = folder / "config.json"
    return path.is_file() and {"method", "schedule"} <= read_json(path).keys()


def looks_like_hub_id(text: str) -> bool:
    """Whether 'name' or 'owner/name' may be on the Hub: no path, and its first part no folder here."""
    parts = text.split("/")
    return len(parts) <= 2 and all(part.strip(".~") for part in parts) and not (len(parts) == 2 and Path(parts[0]).exists())


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not valid JSON: line {error.lineno}: {error.msg}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no section at all; it must be an object, like {{...}}")
    return content


def config_beside(source: str) -> dict[str, Any]:
    """The config that training left in an exported model, or in the run around it; empty if there is none."""
    found = file_of(source, "s4former.json")
    if found is not None:
        return read_json(found)
    run = Path(source).resolve().parent
    return read_json(run / "config.json") if Path(source).is_dir() and is_run(run) else {}


def file_of(source: str, name: str) -> Path | None:
    """A file of a model folder or of a repository on the Hub, None where there is no such file."""
    if Path(source).is_dir():
        return Path(source) / name if (Path(source) / name).is_file() else None
    try:
        found = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{source!r} is no folder here and cannot be had from the Hub ({reason})") from error
    return Path(found) if found else None


def normalization(source: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation that the weights expect, from the image processor beside them."""
    found = file_of(source, "preprocessor_config.json")
    settings = read_json(found) if found else {}
    if not {"image_mean", "image_std"} <= settings.keys():
        raise CheckpointError(
            f"{source} has no preprocessor_config.json with image_mean and image_std; save the model's image processor"
            " into the folder, since numbers measured with the wrong ones would be too low"
        )
    return settings["image_mean"], settings["image_std"]


def resolve_config(choice: Choice, options: argparse.Namespace) -> Config:
    """The config to evaluate with: --config or what lies beside the model, then the overrides, then the flags."""
    if options.config and not Path(options.config).is_file():
        raise ConfigError(f"there is no config file {options.config}; the ones that come along are in configs/")
    tree = read_json(Path(options.config)) if options.config else choice.config
    if not tree and not any(override.startswith("data.") for override in options.overrides):
        raise CheckpointError(
            f"{choice.source} does not say on which data to test it (it has no s4former.json); add --config FILE, or"
            " data.source=... data.root=... and the like"
        )
    for override in options.overrides:
        set_override(tree, override)
    flags = {
        "mode": "sliding" if options.sliding_window else None, "window": options.window, "stride": options.stride,
        "short_side": options.short_side, "batch": options.batch, "scales": options.scales, "flip": options.flip or None,
    }  # fmt: skip
    for name, value in flags.items():
        if value is not None:
            set_override(tree, f"evaluation.{name}={json.dumps(value)}")
    config = from_dict(tree)
    if config.evaluation.mode == "whole" and (options.window or options.stride):
        raise ConfigError("--window and --stride say how windows slide; add --sliding-window")
    return config


def check_classes(network: PreTrainedModel, source: str, classes: Sequence[str]) -> None:
    if network.config.num_labels != len(classes):
        raise CheckpointError(
            f"{source} tells {network.config.num_labels} classes apart, but the data have {len(classes)}"
            f" ({', '.join(classes[:4])}, ...); give the data it was trained for, or map its ids with data.id_map"
        )


# ---- testing it ----------------------------------------------------------------------------------------------------


def evaluate(choice: Choice, config: Config, options: argparse.Namespace, accelerator: Accelerator) -> dict[str, Any]:
    """Reads every image once, over all processes, and returns the report (on every process)."""
    mean, std = normalization(choice.source)
    network = load_network(choice.source).to(accelerator.device).eval()
    dataset = validation_set(config)
    check_classes(network, choice.source, dataset.classes)
    setting = Setting(
        evaluation=config.evaluation, crop=config.data.crop, mean=mean, std=std, device=accelerator.device
    )
    part = {"process_index": accelerator.process_index, "num_processes": accelerator.num_processes, "limit": options.limit}
    matrix = ConfusionMatrix(len(dataset.classes), device=accelerator.device)
    images, start = torch.zeros((), dtype=torch.long, device=accelerator.device), time.perf_counter()
    total = min(options.limit or len(dataset), len(dataset))
    with accelerator.autocast(), tqdm(total=total, unit="image", disable=None if accelerator.is_main_process else True) as bar:
        for items, maps in predictions({"model": partial(logits_at, network)}, dataset, setting, **part):
            count({"model": matrix}, items, maps)
            images += len(items)
            bar.update(len(items) * accelerator.num_processes)
            if options.save_predictions:
                save_predictions(Path(options.save_predictions), items, maps["model"], dataset.classes)
    sum_up = partial(accelerator.reduce, reduction="sum")
    scores, seen = matrix.reduce(sum_up).as_dict(dataset.classes), int(sum_up(images))
    return {
        "checkpoint": choice.source, "model": choice.description, **scores, "images": seen,
        "pixels": int(matrix.counts.sum()), "images_per_second": round(seen / (time.perf_counter() - start), 2),
        "processes": accelerator.num_processes, "precision": accelerator.mixed_precision,
        "evaluation": to_dict(config.evaluation) | {"window": list(setting.window), "stride": list(setting.stride)},
        "data": to_dict(config.data),
    }  # fmt: skip


def save_predictions(folder: Path, items: Sequence[Any], maps: torch.Tensor, classes: Sequence[str]) -> None:
    """FOLDER/masks/ID.png with ids under the palette of PASCAL VOC, and FOLDER/overlays/ID.jpg to look at."""
    for name in ("masks", "overlays"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for item, mask in zip(items, maps.cpu().numpy()):
        name = item.id.replace("/", "__")  # ids of nested folders stay apart, and inside this one
        palette_png(mask, folder / "masks" / f"{name}.png")
        picture = overlay(item.image.permute(1, 2, 0).numpy(), mask, class_names=classes)
        picture.save(folder / "overlays" / f"{name}.jpg", quality=92)


def as_text(report: dict[str, Any]) -> str:
    """The report as a table for the reader."""
    width = max(len(name) for name in [*report["iou"], "pixel accuracy"])
    lines = [f"{'class':{width}}     IoU", "-" * (width + 8)]
    lines += [f"{name:{width}}  {percent(value)}" for name, value in report["iou"].items()]
    lines += ["-" * (width + 8)]
    lines += [f"{'mean IoU':{width}}  {percent(report['mean_iou'])}"]
    lines += [f"{'pixel accuracy':{width}}  {percent(report['pixel_accuracy'])}"]
    if None in report["iou"].values():
        lines += ["", "-: in neither labels nor predictions, left out of the mean"]
    evaluation = report["evaluation"]
    how = "whole images"
    if evaluation["mode"] == "sliding":
        how = "windows of {}x{} every {}x{} pixels".format(*evaluation["window"], *evaluation["stride"])
    size = f"shorter side {evaluation['short_side']}" if evaluation["short_side"] else "original size"
    return "\n".join([*lines, "", f"{report['images']} images, {how}, {size}: {report['images_per_second']} images/s"])


def percent(value: float | None) -> str:
    return f"{'-' if value is None else format(100 * value, '.2f'):>6}"


# ---- command line --------------------------------------------------------------------------------------------------


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pair = {"nargs": 2, "type": positive, "metavar": ("H", "W")}
    parser.add_argument("--checkpoint", metavar="DIR_OR_HUB_ID", help="a run, a model in it, or a Hub id; default: the newest run")
    parser.add_argument("--config", metavar="FILE", help="instead of the config beside the model")
    parser.add_argument("--model", choices=ROLES, help="of a run; default: the teacher where there is one")
    parser.add_argument("--best", action="store_true", help="the best of the run, chosen on the evaluation images, not the last")
    parser.add_argument("--sliding-window", action="store_true", help="average overlapping windows of the size of a training crop")
    parser.add_argument("--window", **pair, help="of the sliding window; default: the training crop")
    parser.add_argument("--stride", **pair, help="of the sliding window; default: two thirds of the window")
    parser.add_argument("--short-side", type=int, metavar="N", help="to which images are resized first; 0 = not at all")
    parser.add_argument("--scales", nargs="+", type=float, metavar="S", help="average over several sizes, such as 0.75 1 1.25")
    parser.add_argument("--flip", action="store_true", help="average with the mirrored image")
    parser.add_argument("--batch", type=positive, metavar="N", help="images of one size, or windows, at once")
    parser.add_argument("--limit", type=positive, default=0, metavar="N", help="only the first N images")
    parser.add_argument("--save-predictions", metavar="DIR", help="write palette PNGs and overlays")
    parser.add_argument("--json", metavar="FILE", help="write the report; - for standard output")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="set one key of the config")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    try:
        choice = choose(options)
        config = resolve_config(choice, options)
        # without being told, Accelerate takes processes on CPUs for unrelated ones, and each would test everything
        on_cpu = not torch.accelerator.is_available()
        accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision(config.run.mixed_precision))
        if accelerator.is_main_process:
            print(f"evaluating {choice.description}", file=sys.stderr, flush=True)
        report = evaluate(choice, config, options, accelerator)
    except (CheckpointError, ConfigError, DataError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 1
    if accelerator.is_main_process:
        text = json.dumps(report, indent=2)
        print(text if options.json == "-" else as_text(report))
        if options.json not in (None, "-"):
            Path(options.json).write_text(text + "\n")
    accelerator.end_training()
    return 0


if __name__ == "__main__":
    sys.exit(main())
