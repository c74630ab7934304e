"""Tests a segmentation model: mean IoU, IoU per class, pixel accuracy; or lets it read photos without masks.

    python evaluate.py                                    the newest run below runs/, its teacher if it has one
    python evaluate.py --checkpoint runs/demo --model student --best
    python evaluate.py --checkpoint FOLDER_OR_HUB_ID --config configs/voc_92.json data.root=/data/VOC
    torchrun --nproc_per_node 2 evaluate.py ...           every image still counts exactly once
    python evaluate.py --images photos/ --save-predictions out       no masks: class maps, overlays and a sheet

(The script shares its name with Hugging Face's `evaluate` package; s4former.evaluation.hf_evaluate finds that one.)
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from s4former.config import Config, from_dict, set_override, to_dict
from s4former.data.batches import validation_set
from s4former.errors import ConfigError, DataError, in_words
from s4former.evaluation.inference import Setting, batches_of_one_size, count, predict, predictions
from s4former.evaluation.metrics import ConfusionMatrix
from s4former.evaluation.model_choice import ROLES, CheckpointError, ModelChoice, choose_model, read_mean_std, read_json
from s4former.evaluation.photos import draw_sheet, find_photos, read_photos, save_maps
from s4former.networks.build import load_network, logits_at
from s4former.training.engine import precision


def resolve_config(choice: ModelChoice, options: argparse.Namespace) -> Config:
    """The config to evaluate with: --config or what lies beside the model, then the overrides, then the flags."""
    if options.config and not Path(options.config).is_file():
        raise ConfigError(f"there is no config file {options.config}; the ones that come along are in configs/")
    tree = read_json(Path(options.config)) if options.config else choice.config
    if not tree and not options.images and not any(override.startswith("data.") for override in options.overrides):
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
    if options.images and not options.save_predictions:
        raise ConfigError("--images says what to read; say where the class maps go with --save-predictions DIR")
    if options.json not in (None, "-") and not Path(options.json).absolute().parent.is_dir():
        raise ConfigError(f"--json {options.json}: there is no such folder to write it into; make it first")
    return config


def check_classes(network: PreTrainedModel, source: str, classes: Sequence[str]) -> None:
    if network.config.num_labels != len(classes):
        raise CheckpointError(
            f"{source} tells {network.config.num_labels} classes apart, but the data have {len(classes)}"
            f" ({', '.join(classes[:4])}, ...); give the data it was trained for, or map its ids with data.id_map"
        )


# ---- testing it ----------------------------------------------------------------------------------------------------


def ready(choice: ModelChoice, config: Config, accelerator: Accelerator) -> tuple[PreTrainedModel, Setting]:
    """The network on the device, and how it is to read images."""
    mean, std = read_mean_std(choice.source)
    network = load_network(choice.source).to(accelerator.device).eval()
    return network, Setting(
        evaluation=config.evaluation, crop=config.data.crop, mean=mean, std=std, device=accelerator.device
    )


def evaluate(choice: ModelChoice, config: Config, options: argparse.Namespace, accelerator: Accelerator) -> dict[str, Any]:
    """Reads every image once, over all processes, and returns the report (on every process)."""
    network, setting = ready(choice, config, accelerator)
    dataset = validation_set(config)
    check_classes(network, choice.source, dataset.classes)
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
                save_maps(Path(options.save_predictions), items, maps["model"], dataset.classes)
    sum_up = partial(accelerator.reduce, reduction="sum")
    scores, seen = matrix.reduce(sum_up).as_dict(dataset.classes), int(sum_up(images))
    return {
        "checkpoint": choice.source, "model": choice.description, **scores, "images": seen,
        "pixels": int(matrix.counts.sum()), "images_per_second": round(seen / (time.perf_counter() - start), 2),
        "processes": accelerator.num_processes, "precision": accelerator.mixed_precision,
        "evaluation": to_dict(config.evaluation) | {"window": list(setting.window), "stride": list(setting.stride)},
        "data": to_dict(config.data),
    }  # fmt: skip


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


# ---- photos without masks --------------------------------------------------------------------------------------------


def read_files(choice: ModelChoice, config: Config, options: argparse.Namespace, accelerator: Accelerator) -> dict[str, Any]:
    """Class maps of image files, over all processes; returns the report (on every process)."""
    network, setting = ready(choice, config, accelerator)
    classes = [network.config.id2label[i] for i in range(network.config.num_labels)]
    photos, folder = find_photos(options.images), Path(options.save_predictions)
    photos = dict(list(photos.items())[: options.limit or None])
    mine = list(photos.items())[accelerator.process_index :: accelerator.num_processes]
    # windows of one image fill a batch by themselves; other images need not wait for company
    batch = 1 if config.evaluation.mode == "sliding" else config.evaluation.batch
    complaints, images, start = [], 0, time.perf_counter()
    silent = None if accelerator.is_main_process else True
    with accelerator.autocast(), tqdm(total=len(photos), unit="image", disable=silent) as bar:
        for items in batches_of_one_size(read_photos(mine, complaints, config.data.levels), batch):
            maps = predict(partial(logits_at, network), torch.stack([item.image for item in items]), setting)
            save_maps(folder, items, maps, classes)
            images += len(items)
            bar.update(len(items) * accelerator.num_processes)
    seconds = time.perf_counter() - start
    complaints, images = gather_object(complaints), sum(gather_object([images]))  # which also waits for the others
    if accelerator.is_main_process:
        draw_sheet(folder, photos, classes, config.data.levels)
    return {
        "checkpoint": choice.source, "model": choice.description, "images": images, "unreadable": complaints,
        "images_per_second": round(images / seconds, 2), "folder": str(folder), "evaluation": to_dict(config.evaluation),
    }  # fmt: skip


def files_as_text(report: dict[str, Any]) -> str:
    """Where the class maps are, and what could not be read."""
    lines = [
        f"{report['images']} images in {report['folder']}: masks/ (class ids), overlays/ and sheet.png;"
        f" {report['images_per_second']} images/s"
    ]
    if report["unreadable"]:
        lines += ["", f"{len(report['unreadable'])} could not be read, the others are done:", *report["unreadable"]]
    return "\n".join(lines)


def told(error: Exception) -> str:
    """What the user reads of an error that ends the command."""
    if isinstance(error, torch.OutOfMemoryError):
        return f"{str(error).splitlines()[0]} Take a smaller --batch, or --sliding-window for large images"
    return in_words(error)


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
    parser.add_argument("--images", metavar="PATH", help="read a file, a folder or a 'glob' of photos instead of testing")
    parser.add_argument("--save-predictions", metavar="DIR", help="write palette PNGs and overlays")
    parser.add_argument("--json", metavar="FILE", help="write the report; - for standard output")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="set one key of the config")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    disable_progress_bar()  # of transformers, one for the tensors it loads
    try:
        choice = choose_model(options.checkpoint, options.model, options.best)
        config = resolve_config(choice, options)
        # without being told, Accelerate takes processes on CPUs for unrelated ones, and each would test everything
        on_cpu = not torch.accelerator.is_available()
        accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision(config.run.mixed_precision))
        if accelerator.is_main_process:
            print(f"{'reading with' if options.images else 'evaluating'} {choice.description}", file=sys.stderr, flush=True)
        work, as_words = (read_files, files_as_text) if options.images else (evaluate, as_text)
        report = work(choice, config, options, accelerator)
        if accelerator.is_main_process:
            text = json.dumps(report, indent=2)
            print(text if options.json == "-" else as_words(report))
            if options.json not in (None, "-"):
                Path(options.json).write_text(text + "\n")
    except (CheckpointError, ConfigError, DataError, OSError, torch.OutOfMemoryError) as error:
        print(f"evaluate.py: {told(error)}", file=sys.stderr)
        return 1
    accelerator.end_training()
    return 1 if report.get("unreadable") else 0


if __name__ == "__main__":
    sys.exit(main())
