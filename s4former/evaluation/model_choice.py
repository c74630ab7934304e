"""The model to evaluate: of the newest run, of a run, of an exported folder or of the Hub; and the files beside its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

from ..config import read_tree, without_taken_out
from ..errors import ConfigError, UserError
from ..files import similar_path
from ..networks.hub import HUB_ERRORS, describe_hub_error, hub_file, is_hub_id

RUNS = Path("runs")
ROLES = ("teacher", "student")  # in order of preference


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message says which, why, and what to give instead."""


class NoModelYet(CheckpointError):
    """A run without the models that are written at its end, or the best ones of its evaluations."""

    def __init__(self, run: Path, prefix: str):
        super().__init__(
            f"{run} has no {prefix}teacher/ or {prefix}student/ yet; train_semi.py writes them when it ends, and"
            " goes on with --resume"
        )
        self.run = run


@dataclass(frozen=True)
class ModelChoice:
    """source: the folder of a model, or its id on the Hub. config: what lies beside it; empty if nothing does."""

    source: str
    description: str
    config: dict[str, Any]


def choose_model(checkpoint: str | None, role: str | None = None, best: bool = False) -> ModelChoice:
    """The model that is named: one of a run (of the newest below runs/, if none is named), an exported folder, or a Hub id.

    Args:
        role: teacher or student of a run; by default the teacher where there is one.
        best: the one chosen on the evaluation images, not the last.

    Raises:
        CheckpointError: there is no such model; a `NoModelYet` if the run has not written it yet.
    """
    if checkpoint is None:
        run = newest_run(RUNS)
        return model_of_run(run, role, best, f"the newest run, {run}")
    folder = Path(checkpoint)
    if is_run(folder):
        return model_of_run(folder, role, best, checkpoint)
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
    if not folder.exists() and not is_hub_id(checkpoint):
        hint = similar_path(checkpoint) or "give a run, an exported model, or the id of one on the Hub"
        raise CheckpointError(f"there is no folder {folder}; {hint}")
    if find_model_file(checkpoint, "config.json") is None:
        raise not_on_the_hub(checkpoint, "no config.json of it")
    return ModelChoice(checkpoint, checkpoint, config_beside(checkpoint))


def model_of_run(run: Path, role: str | None, best: bool, name: str) -> ModelChoice:
    """The teacher or student in a folder, last or best; name: what the folder is called in the description."""
    prefix = "best-" if best else ""
    roles = [role for role in ROLES if (run / f"{prefix}{role}" / "config.json").is_file()]
    if not roles:
        raise NoModelYet(run, prefix)
    role = role or roles[0]
    if role not in roles:
        raise CheckpointError(f"{run} has no {prefix}{role}/, only a {roles[0]}; leave out --model or write --model {roles[0]}")
    source, moment = str(run / f"{prefix}{role}"), "best (chosen on the evaluation images)" if best else "last"
    config = read_trained(run / "config.json") if is_run(run) else config_beside(source)
    return ModelChoice(source, f"{name}: {role}, {moment}", config)


def config_beside(source: str) -> dict[str, Any]:
    """The config that was exported with a model, else of the run that it lies in; empty where there is none."""
    found, run = find_model_file(source, "s4former.json"), Path(source).resolve().parent
    if found is None and Path(source).is_dir() and is_run(run):
        found = run / "config.json"
    return read_trained(found) if found else {}


def read_trained(path: Path) -> dict[str, Any]:
    """The config with which a model was trained, perhaps by an older version."""
    return without_taken_out(read_tree(path), even_in_use=True)


def newest_run(root: Path) -> Path:
    """The run below `root` that was started last and has a model or a checkpoint."""
    runs = [path.parent for path in root.rglob("config.json") if is_run(path.parent)]
    for run in sorted(runs, key=lambda run: (run / "config.json").stat().st_mtime, reverse=True):
        if has_checkpoint(run) or any((run / f"{prefix}{role}").is_dir() for role in ROLES for prefix in ("", "best-")):
            return run
    state = f"the runs below {root}/ have no model yet" if runs else f"there is no run below {root}/"
    raise CheckpointError(f"{state}; train one with train_semi.py, or say which model with --checkpoint")


def has_checkpoint(run: Path) -> bool:
    return any((run / "checkpoints").glob("step-*"))


def is_run(folder: Path) -> bool:
    """Whether the folder's config.json has our sections, not the keys of a transformers model."""
    path = folder / "config.json"
    return path.is_file() and {"method", "schedule"} <= read_tree(path).keys()


def find_model_file(source: str, name: str) -> Path | None:
    """A file of a model folder or of a repository on the Hub, None where there is no such file."""
    if Path(source).is_dir():
        return Path(source) / name if (Path(source) / name).is_file() else None
    try:
        return hub_file(source, name)
    except HUB_ERRORS as error:
        raise not_on_the_hub(source, describe_hub_error(error)) from error


def not_on_the_hub(source: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{source!r} is no folder here and cannot be had from the Hub ({reason}); give the folder of a run or of a model in"
        " it, or the id of one on the Hub that can be reached"
    )


def read_mean_std(source: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation that the weights expect, from the image processor beside them."""
    from ..networks.image_processor import PROCESSOR, PROCESSORS, normalization_of  # it takes seconds; a wrong --checkpoint is told at once

    files = filter(None, (find_model_file(source, name) for name in PROCESSORS))
    try:
        normalization = next(filter(None, map(normalization_of, map(read_tree, files))), None)
    except ConfigError as error:
        raise CheckpointError(f"{source} cannot be read as it was trained: {error}") from None
    if normalization is None:
        raise CheckpointError(
            f"{source} has no {PROCESSOR} with image_mean and image_std; save the model's image processor"
            " into the folder, since numbers measured with the wrong ones would be too low"
        )
    return normalization
