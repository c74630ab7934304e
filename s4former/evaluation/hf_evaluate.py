"""Imports Hugging Face's `evaluate` package, whose name the script evaluate.py at the repository's root shares."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ..config import IGNORE_INDEX


def evaluate_package() -> ModuleType:
    """The package, also where `import evaluate` would find the script; after the first call that gives the package too."""
    loaded = sys.modules.get("evaluate")
    if hasattr(loaded, "__path__"):  # only packages have one
        return loaded
    sys.modules.pop("evaluate", None)  # the script; whoever imported it keeps its own reference
    search_path = list(sys.path)
    sys.path[:] = [entry for entry in search_path if not (Path(entry or ".") / "evaluate.py").is_file()]
    try:
        return importlib.import_module("evaluate")
    finally:
        sys.path[:] = search_path + [entry for entry in sys.path if entry not in search_path]  # the import may add


def load_mean_iou(num_labels: int, ignore_index: int = IGNORE_INDEX) -> Any:
    """The streaming mean IoU as an `evaluate` metric; needs no network."""
    folder = Path(__file__).parent / "mean_iou"
    return evaluate_package().load(str(folder), num_labels=num_labels, ignore_index=ignore_index)
