"""The way to Hugging Face's `evaluate` package, whose name the top-level script evaluate.py shares.

Wherever Python runs with the repository root in its search path, `import evaluate` finds the script. The functions here
find the package instead; after the first call a plain `import evaluate` anywhere gives the package as well.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ..config import IGNORE_INDEX

METRIC_FOLDER = Path(__file__).parent / "mean_iou"


def evaluate_package() -> ModuleType:
    """Hugging Face's `evaluate`, imported past a script of the same name."""
    loaded = sys.modules.get("evaluate")
    if loaded is not None and is_package(loaded):
        return loaded
    sys.modules.pop("evaluate", None)  # the script; whoever imported it keeps its own reference
    search_path = list(sys.path)
    sys.path[:] = [entry for entry in search_path if not (Path(entry or ".") / "evaluate.py").is_file()]
    try:
        return importlib.import_module("evaluate")
    except ModuleNotFoundError as error:
        if error.name != "evaluate":
            raise
        raise ModuleNotFoundError(
            "the package `evaluate` is not installed; install it with: pip install evaluate", name="evaluate"
        ) from None
    finally:
        sys.path[:] = search_path + [entry for entry in sys.path if entry not in search_path]  # the import may add


def is_package(module: ModuleType) -> bool:
    """Whether a module named `evaluate` is the package and not a script: only packages have a search path."""
    return hasattr(module, "__path__")


def load_mean_iou(num_labels: int, ignore_index: int = IGNORE_INDEX) -> Any:
    """The streaming mean IoU as an `evaluate` metric; needs no network."""
    return evaluate_package().load(str(METRIC_FOLDER), num_labels=num_labels, ignore_index=ignore_index)
