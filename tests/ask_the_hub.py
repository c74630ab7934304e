"""Asks a Hub (HF_ENDPOINT, read at import) for everything we read from one; prints what a user is told, as JSON.

    python ask_the_hub.py MANNER ...     the Hub answers for repositories called stub/MANNER in that manner
"""

import json
import sys
import time
from types import SimpleNamespace

import huggingface_hub.utils._http as hub_http
from huggingface_hub import file_download
from transformers import ViTConfig

from s4former.config import Data, Model
from s4former.data.sources import load_sources
from s4former.errors import ConfigError, DataError
from s4former.evaluation.model_choice import CheckpointError, choose_model
from s4former.networks import hub
from s4former.networks.build import load_network
from s4former.networks.encoder_weights import read_encoder_config, read_tensors

WAYS = {
    "encoder": lambda repository: read_encoder_config(Model(encoder=repository)),
    "weights": lambda repository: read_tensors(Model(encoder=repository), ViTConfig()),
    "network": load_network,
    "evaluate": choose_model,
    "dataset": lambda repository: load_sources(Data(source="hub", root=repository, labeled="first:1", classes=("a", "b"))),
}

if __name__ == "__main__":
    hub_http.time = SimpleNamespace(sleep=lambda seconds: None)  # between attempts; there are six
    file_download._ETAG_RETRY_TIMEOUT = hub.REQUEST_TIMEOUT = 0.3
    told = {}
    for manner in sys.argv[1:]:
        for name, way in WAYS.items():
            started = time.monotonic()
            try:
                way(f"stub/{manner}")
            except (ConfigError, CheckpointError, DataError) as error:
                told[f"{name} {manner}"] = str(error)
            assert time.monotonic() - started < 60
    json.dump(told, sys.stdout)
