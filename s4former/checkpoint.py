"""Checkpoints that survive: written beside and renamed, verified before they are believed.

    runs/NAME/checkpoints/step-00000400/state.pt        everything training needs, tensors and plain values
                                        manifest.json   its step, size and SHA-256

A folder called step-* was complete when it got that name. One that does not match its manifest any more is passed over
in words, and the one before it is taken.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Writes the checkpoint of `step` and deletes all but the newest `keep`.

    Raises:
        OSError: the disk is full or read-only; whatever was there before is still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{step:08d}"
    beside = folder / f".writing-{step:08d}"
    shutil.rmtree(beside, ignore_errors=True)  # of a run that was killed
    try:
        beside.mkdir()
        torch.save(state, beside / "state.pt")
        manifest = {"step": step, "bytes": (beside / "state.pt").stat().st_size, "sha256": sha256(beside / "state.pt")}
        (beside / "manifest.json").write_text(json.dumps(manifest))
        flush(beside / "state.pt")
        flush(beside / "manifest.json")
        flush(beside)
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    if target.exists():  # only where it was refused on the way in
        shutil.rmtree(target)
    beside.rename(target)
    flush(folder)
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest checkpoint that is what it was when written, or None; and a sentence for each that is not."""
    refused = []
    for candidate in reversed(complete(folder)):
        complaint = damage(candidate)
        if complaint is None:
            return torch.load(candidate / "state.pt", map_location="cpu", weights_only=True), refused
        refused.append(f"{candidate} is damaged ({complaint}); taking the one before it")
    return None, refused


def complete(folder: Path) -> list[Path]:
    """The finished checkpoints, oldest first."""
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words, or None."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        size = (checkpoint / "state.pt").stat().st_size
    except (OSError, json.JSONDecodeError) as error:
        return str(error)
    if size != manifest["bytes"]:
        return f"state.pt has {size} bytes instead of {manifest['bytes']}"
    if sha256(checkpoint / "state.pt") != manifest["sha256"]:
        return "state.pt does not match its SHA-256"
    return None


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Makes sure that a file or folder entry is on the disk and not only on its way there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(beside: Path, target: Path) -> None:
    """Puts a finished folder in the place of an older one; at every moment one of the two is there under some name."""
    old = target.with_name(f".old-{target.name}")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    try:
        beside.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """A text file that is either the old or the new one, never half of it."""
    beside = path.with_name(f".writing-{path.name}")
    beside.write_text(text)
    flush(beside)
    beside.replace(path)
