"""No test reaches the network; every test draws the same random numbers, alone or after others, and computes on one core."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # more threads than cores, as with -n, wait for each other in loops


@pytest.fixture(autouse=True)
def seeded():
    import torch  # not above: it reads OMP_NUM_THREADS

    torch.manual_seed(0)
