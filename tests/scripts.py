"""Runs the scripts of the repository as a user would, on the smallest network and world there can be."""

import atexit
import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
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


def run(arguments: list[str], *, cwd: Path | None = None, timeout: float = 300, processes: int = 1) -> subprocess.CompletedProcess:
    """Runs a command to its end; a script of this repository in as many processes as `torchrun` would start."""
    if not arguments[1].endswith(".py"):
        return subprocess.run(arguments, env=environment(), cwd=cwd, timeout=timeout, capture_output=True, text=True)
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        outputs, started = [Path(folder, name) for name in ("stdout", "stderr")], []
        for rank in range(processes):
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes,
                     "MASTER_ADDR": "localhost", "MASTER_PORT": port} if processes > 1 else {}  # fmt: skip
            started.append(fork_script(arguments[1:], {key: str(value) for key, value in ranks.items()}, cwd or Path.cwd(), outputs))
        until = time.monotonic() + timeout
        for process in started:
            process.join(max(0, until - time.monotonic()))
        if late := [process for process in started if process.exitcode is None]:
            for process in late:
                process.kill()
            raise subprocess.TimeoutExpired(arguments, timeout, *(path.read_text() for path in outputs))
        code = next((process.exitcode for process in started if process.exitcode), 0)
        return subprocess.CompletedProcess(arguments, code, *(path.read_text() for path in outputs))


def fork_script(arguments: list[str], ranks: dict[str, str], cwd: Path, outputs: list[Path]) -> multiprocessing.Process:
    """A process forked from one that has imported the libraries already, which takes ten seconds of a core."""
    context, before = multiprocessing.get_context("forkserver"), dict(os.environ)
    context.set_forkserver_preload(["s4former.training.preflight", "s4former.training.run", "s4former.commands.evaluate_model"])
    for path in outputs:
        path.touch()
    try:
        os.environ.update(environment())  # some variables are read when a library is imported
        process = context.Process(target=run_script, args=(arguments, {**environment(), **ranks}, str(cwd), outputs))
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return process


def run_script(arguments: list[str], variables: dict[str, str], cwd: str, outputs: list[Path]) -> None:
    """What `python SCRIPT ...` does, in a process that has begun already."""
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    sys.argv, sys.path[0:0] = arguments, [str(Path(arguments[0]).parent)]
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()


def train(config: Path, output: Path, *arguments: str, processes: int = 1) -> subprocess.CompletedProcess:
    return run(command(config, output, *arguments), processes=processes)
