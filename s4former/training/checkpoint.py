"""Checkpoints that survive: written beside and renamed, verified before they are believed.

    runs/NAME/checkpoints/step-00000400/state.pt        everything training needs, tensors and plain values
                                        manifest.json   its step, size and SHA-256

A folder called step-* was complete when it got that name. One that does not match its manifest any more is passed over
in words, and the one before it is taken.
"""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import DamageError
from ..files import flush, sha256, writing


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Writes the checkpoint of `step` and deletes all but the newest `keep`.

    Raises:
        WriteError: the disk is full or read-only; whatever was there before is still there.
    """
    target = folder / f"step-{step:08d}"
    beside = folder / f".writing-{step:08d}"
    for left_over in folder.glob(".writing-*"):  # of a run that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    with writing(target, beside, size_of(state)):
        beside.mkdir(parents=True)
        with open(beside / "state.pt", "wb") as file:
            torch.save(state, file)
        manifest = {"step": step, "bytes": (beside / "state.pt").stat().st_size, "sha256": sha256(beside / "state.pt")}
        (beside / "manifest.json").write_text(json.dumps(manifest))
        flush(beside / "state.pt")
        flush(beside / "manifest.json")
        flush(beside)
        if target.exists():  # only where it was refused on the way in
            shutil.rmtree(target)
        beside.rename(target)
        flush(folder)
    for later in complete(folder):  # refused too, or this step would not have come again; it must not count as kept
        if later.name > target.name:
            shutil.rmtree(later, ignore_errors=True)
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest checkpoint that is what it was when written, and a sentence for each newer one that is not.

    None if there is no checkpoint at all.

    Raises:
        DamageError: there are checkpoints, and none of them is whole.
    """
    refused = []
    for candidate in reversed(complete(folder)):
        complaint = damage(candidate)
        if complaint is None:
            try:
                state = torch.load(candidate / "state.pt", map_location="cpu", weights_only=True)
            except (pickle.UnpicklingError, RuntimeError, EOFError) as error:  # sound, but none of ours
                complaint = f"state.pt does not hold tensors and plain values alone: {str(error).splitlines()[0]}"
            else:
                return state, [f"{sentence}; taking the one before it" for sentence in refused]
        refused.append(f"{candidate} is damaged ({complaint})")
    if refused:
        raise DamageError(
            f"no checkpoint can be resumed from: {'; '.join(refused)}. Put a copy of one of them back; or delete"
            f" {folder} to begin again at step 0"
        )
    return None, refused


def complete(folder: Path) -> list[Path]:
    """The finished checkpoints, oldest first."""
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words, or None."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        expected, checksum = manifest["bytes"], manifest["sha256"]
        size = (checkpoint / "state.pt").stat().st_size
    except OSError as error:
        return str(error)
    except (ValueError, KeyError, TypeError) as error:
        return f"manifest.json is not as it was written: {type(error).__name__}: {error}"
    if size != expected:
        return f"state.pt has {size} bytes instead of {expected}"
    if sha256(checkpoint / "state.pt") != checksum:
        return "state.pt does not match its SHA-256"
    return None


def way_on(folder: Path) -> str:
    """What is kept of the run in `folder` once it had to stop, and the command that goes on with it."""
    there = complete(folder / "checkpoints")
    if not there:
        return "No checkpoint was due yet; once that is mended, the same command begins again"
    return (
        f"Nothing is lost up to step {int(there[-1].name[5:])}, whose checkpoint is in {folder}; once that is mended, the same"
        " command with --resume goes on from there"
    )


def size_of(state: Any) -> int:
    """Bytes of all tensors in nested dicts and lists."""
    if isinstance(state, Tensor):
        return state.nbytes
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return sum(map(size_of, parts))
