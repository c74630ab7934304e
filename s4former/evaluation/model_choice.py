"""Which model is meant: the newest run, a run, an exported folder, or an id on the Hub; and what lies beside its weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

from ..networks.hub import HUB_ERRORS, describe_hub_error, hub_file

RUNS = Path("runs")
GIVE_INSTEAD = "give the folder of a run or of a model in it, or the id of one on the Hub that can be reached"
ROLES = ("teacher", "student")  # in order of preference


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which, why, and what to give instead."""


@dataclass(frozen=True)
class ModelChoice:
    """The model that was asked for.

    source: its folder, or an id on the Hub.    config: what lies beside it, as nested dicts; empty if nothing does.
    """

    source: str
    description: str
    config: dict[str, Any]


def choose_model(checkpoint: str | None, role: str | None = None, best: bool = False) -> ModelChoice:
    """The model that is named: one of a run (of the newest, if none is), an exported folder, or a Hub id.

    Args:
        role: teacher or student of a run; by itself the teacher where there is one.
        best: the one chosen on the evaluation images, not the last.
    """
    if checkpoint is None:
        run = newest_run(RUNS)
        return model_of_run(run, role, best, f"the newest run, {run}: ")
    folder = Path(checkpoint)
    if is_run(folder):
        return model_of_run(folder, role, best, f"{folder}: ")
    if role or best:
        raise CheckpointError(
            f"--model and --best choose among the models of a run, and {checkpoint} is not the folder of one;"
            " leave them out, or give the folder that holds teacher/ or student/"
        )
    if folder.exists() and not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json, so it is neither a run nor an exported model; give a folder that"
            " train_semi.py wrote, or one of the models in it"
        )
    if not folder.exists() and not looks_like_hub_id(checkpoint):
        raise CheckpointError(f"there is no folder {folder}; give a run, an exported model, or the id of one on the Hub")
    if find_model_file(checkpoint, "config.json") is None:
        raise CheckpointError(f"{not_here(checkpoint)} (no config.json of it); {GIVE_INSTEAD}")
    return ModelChoice(checkpoint, checkpoint, config_beside(checkpoint))


def model_of_run(run: Path, role: str | None, best: bool, prefix: str) -> ModelChoice:
    """The teacher or student of a run, last or best."""
    moment = "best-" if best else ""
    there = [role for role in ROLES if (run / f"{moment}{role}" / "config.json").is_file()]
    if not there:
        raise CheckpointError(
            f"{run} has no {moment}teacher/ or {moment}student/ yet; train_semi.py writes them when it ends, and goes on"
            " with --resume"
        )
    role = role or there[0]
    if role not in there:
        raise CheckpointError(f"{run} has no {moment}{role}/, only a {there[0]}; leave out --model or write --model {there[0]}")
    remark = "best (chosen on the evaluation images)" if best else "last"
    return ModelChoice(str(run / f"{moment}{role}"), f"{prefix}{role}, {remark}", read_json(run / "config.json"))


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
    found = find_model_file(source, "s4former.json")
    if found is not None:
        return read_json(found)
    run = Path(source).resolve().parent
    return read_json(run / "config.json") if Path(source).is_dir() and is_run(run) else {}


def find_model_file(source: str, name: str) -> Path | None:
    """A file of a model folder or of a repository on the Hub, None where there is no such file."""
    if Path(source).is_dir():
        return Path(source) / name if (Path(source) / name).is_file() else None
    try:
        return hub_file(source, name)
    except HUB_ERRORS as error:
        raise CheckpointError(f"{not_here(source)} ({describe_hub_error(error)}); {GIVE_INSTEAD}") from error


def not_here(source: str) -> str:
    return f"{source!r} is no folder here and cannot be had from the Hub"


def read_mean_std(source: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation that the weights expect, from the image processor beside them."""
    found = find_model_file(source, "preprocessor_config.json")
    settings = read_json(found) if found else {}
    if not {"image_mean", "image_std"} <= settings.keys():
        raise CheckpointError(
            f"{source} has no preprocessor_config.json with image_mean and image_std; save the model's image processor"
            " into the folder, since numbers measured with the wrong ones would be too low"
        )
    return settings["image_mean"], settings["image_std"]
