"""Checkpoints on disk, written beside their place and renamed, and verified before they are read.

    runs/NAME/checkpoints/step-00000400/state.pt        everything training needs, tensors and plain values
                                        manifest.json   its step and SHA-256
                                        scores.json     what the evaluation of the step added, if it was due

A folder called step-* was complete when it got that name. One that no longer matches its manifest is skipped with a
message, and the one before it is taken.
"""

import json
import pickle
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import DamageError
from ..files import flush, sha256, write_text, writing

SCORES = "scores.json"


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Writes the checkpoint of `step`, then deletes all but the newest `keep`; a `WriteError` leaves the older ones."""
    target = folder / f"step-{step:08d}"
    if target.exists() and find_damage(target) is None:  # resumed from, and no step was done since
        return target
    beside = folder / f".writing-{step:08d}"
    for left_over in folder.glob(".writing-*"):  # of a run that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    with writing(target, beside, total_bytes(state)):
        beside.mkdir(parents=True)
        with open(beside / "state.pt", "wb") as file:
            torch.save(state, file)
        (beside / "manifest.json").write_text(json.dumps({"step": step, "sha256": sha256(beside / "state.pt")}))
        for path in (beside / "state.pt", beside / "manifest.json", beside):
            flush(path)
        if target.exists():  # a damaged one
            shutil.rmtree(target)
        beside.rename(target)
        flush(folder)
    for later in complete(folder):  # damaged too; it must not count as kept
        if later.name > target.name:
            shutil.rmtree(later, ignore_errors=True)
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def add_scores(folder: Path, step: int, values: dict[str, Any]) -> None:
    """Adds to the checkpoint of a step, if there is one, what its evaluation changed of the state."""
    target = folder / f"step-{step:08d}"
    if target.is_dir():
        write_text(target / SCORES, json.dumps(values))


def load_newest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest undamaged checkpoint (None: there is none), and a message for each newer one that is damaged.

    `DamageError` if there are checkpoints, and all of them are damaged.
    """
    refused = []
    for candidate in reversed(complete(folder)):
        damage = find_damage(candidate)
        if damage is None:
            try:
                state = torch.load(candidate / "state.pt", map_location="cpu", weights_only=True)
                with suppress(OSError, ValueError):  # without them the evaluation comes again
                    state |= json.loads((candidate / SCORES).read_text())
                return state, [f"{message}; taking the one before it" for message in refused]
            except (pickle.UnpicklingError, RuntimeError, EOFError) as error:  # undamaged, but not written by `save`
                damage = f"state.pt does not hold tensors and plain values alone: {str(error).splitlines()[0]}"
        refused.append(f"{candidate} is damaged ({damage})")
    if refused:
        raise DamageError(
            f"no checkpoint can be resumed from: {'; '.join(refused)}. Put a copy of one of them back; or delete"
            f" {folder} to begin again at step 0"
        )
    return None, []


def complete(folder: Path) -> list[Path]:
    """The finished checkpoints, oldest first."""
    return sorted(folder.glob("step-*"))


def find_damage(checkpoint: Path) -> str | None:
    """How a checkpoint differs from its manifest; None if it does not."""
    try:
        expected = json.loads((checkpoint / "manifest.json").read_text())["sha256"]
        return None if sha256(checkpoint / "state.pt") == expected else "state.pt does not match its SHA-256"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


def total_bytes(state: Any) -> int:
    """Bytes of all tensors in nested dicts and lists."""
    if isinstance(state, Tensor):
        return state.nbytes
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return sum(map(total_bytes, parts))
