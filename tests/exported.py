"""A model folder in a process that cannot import s4former, as its receiver has it."""

import json
import os
import subprocess
import sys

import torch

from s4former.networks.build import save_network
from s4former.networks.encoder_weights import IMAGENET

# A None in sys.modules makes every import of the package fail, installed or not.
WITHOUT_THE_PACKAGE = 'import sys\nsys.modules["s4former"] = None\n'
PREDICT = """
import json
import torch
from PIL import Image
from transformers import pipeline
segment = pipeline("image-segmentation", model=sys.argv[1], trust_remote_code=True)
results = segment(Image.new("RGB", (51, 37), (200, 30, 30)))
logits = segment.model(torch.linspace(-1, 1, 3 * 37 * 51).view(1, 3, 37, 51)).logits
print(json.dumps({"labels": [result["label"] for result in results], "logits": logits.flatten().tolist()}))
"""


def run_without_the_package(code, *arguments, folder):
    """What `code` prints in a process of its own; -I: neither `folder`, where it starts, nor PYTHONPATH is searched."""
    command = [sys.executable, "-I", "-c", WITHOUT_THE_PACKAGE + code, *map(str, arguments)]
    environment = {**os.environ, "HF_MODULES_CACHE": str(folder / "modules")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def runs_alone(network, folder):
    """Whether a saved network gives the same logits in a process that has no s4former."""
    save_network(network, folder / "model", *IMAGENET, short_side=32)
    there = json.loads(run_without_the_package(PREDICT, folder / "model", folder=folder))
    assert set(there["labels"]) <= set(network.config.id2label.values())
    here = network(torch.linspace(-1, 1, 3 * 37 * 51).view(1, 3, 37, 51)).logits
    torch.testing.assert_close(torch.tensor(there["logits"]), here.flatten())
    return True
