"""No test reaches the network; every test draws the same random numbers and has the same precision, alone or after others, on one core."""

import os
import sys

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # more threads than cores, as with -n, wait for each other in loops


@pytest.fixture(autouse=True)
def fresh_state():
    import torch  # not above: it reads OMP_NUM_THREADS

    torch.manual_seed(0)
    if "accelerate" in sys.modules:  # an Accelerator is given the state, and so the precision, of the first one of its process
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
