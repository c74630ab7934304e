"""Runs the scripts of the repository as a user would, on the smallest network and world there can be."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TINY = {
    "data": {
        "source": "shapes",
        "crop": [32, 48],
        "resize": [64, 32],
        "workers": 0,
        "shapes": {"labeled": 5, "unlabeled": 11, "validation": 5, "height": 40, "width": 56},
    },
    "model": {
        "encoder": "deit-tiny",
        "pretrained": False,
        "decoder_channels": 8,
        "decoder_stages": 2,
        "encoder_config": {
            "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32,
            "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        },
    },
    "method": {"block": 1, "threshold": 0.1, "ema": 0.9, "ema_warm_up": True, "mix_group": 2},
    "optimizer": {"name": "adamw"},
    "schedule": {"steps": 6, "floor": 0.0},
    "evaluation": {"every": 3, "short_side": 32},
    "run": {"batch": {"labeled": 2, "unlabeled": 4}, "log_every": 1, "checkpoint_every": 2},
}  # fmt: skip


def write_config(folder: Path, name: str = "tiny.json", tree: dict | None = None) -> Path:
    path = folder / name
    path.write_text(json.dumps(tree or TINY))
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def command(config: Path, output: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "train_semi.py"), "--config", str(config), f"run.output={output}", *arguments]


def run(arguments: list[str], *, cwd: Path | None = None, timeout: float = 300) -> subprocess.CompletedProcess:
    return subprocess.run(arguments, env=environment(), cwd=cwd, timeout=timeout, capture_output=True, text=True)


def train(config: Path, output: Path, *arguments: str) -> subprocess.CompletedProcess:
    return run(command(config, output, *arguments))
