"""The models of a run that has not ended: those of its newest checkpoint, exported into the folder of that checkpoint."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from ..config import from_dict
from ..errors import ConfigError
from ..evaluation.model_choice import ROLES
from ..method.thresholds import build_thresholds
from ..networks.build import build_network, save_network
from ..networks.encoder_weights import normalization
from ..networks.low_rank import restrict_training
from ..networks.start_from import start_from
from . import checkpoint


def export_newest(run: Path) -> Path:
    """Writes teacher/ and student/ into the newest undamaged checkpoint of a run; returns the folder of the checkpoint.

    What was written before is taken as it is. The folder goes with its checkpoint, when training deletes that.

    Raises:
        ConfigError: the checkpoint is of a version that did not save the names of its classes.
        DamageError: there are checkpoints, and all of them are damaged.
    """
    newest = checkpoint.complete(run / "checkpoints")[-1]
    if any((newest / role).is_dir() for role in ROLES):
        return newest
    state, refused = checkpoint.load_newest(run / "checkpoints")
    print(*refused, sep="\n", end="\n" * bool(refused), file=sys.stderr)
    if not state.get("classes"):
        raise ConfigError(f"the checkpoints of {run} do not say what their classes are called; go on with --resume until it ends")
    config, classes, folder = from_dict(state["config"]), state["classes"], newest.with_name(f"step-{state['step']:08d}")
    if config.model.start_from:
        network = start_from(config.model, classes)[0]
    else:
        model = replace(config.model, pretrained=False)
        network = build_network(model, id2label=dict(enumerate(classes)), crop=config.data.crop)
    restrict_training(network, config.model)  # adapters, which it is saved with
    mean, std = normalization(config.model)
    # an older version saved a compiled student under the names of its wrapper
    student = {name.removeprefix("_orig_mod."): tensor for name, tensor in state["student"].items()}
    for role, tensors in (("student", student), ("teacher", state["teacher"])):
        if tensors is None or (folder / role).is_dir():
            continue
        network.load_state_dict({name.removeprefix("network."): each for name, each in tensors.items() if name.startswith("network.")})
        beside = folder / f".writing-{role}-{os.getpid()}"  # other processes may write it as well
        sides = {"short_side": config.evaluation.short_side, "long_side": config.evaluation.long_side}
        save_network(network, beside, mean, std, **sides, levels=config.data.levels)
        (beside / "s4former.json").write_text(json.dumps(state["config"], indent=2) + "\n")
        if (thresholds := build_thresholds(config.method, len(classes))) is not None:
            thresholds.load_state_dict({name: student[f"thresholds.{name}"] for name in thresholds.state_dict()})
            (beside / "thresholds.json").write_text(json.dumps(thresholds.current().tolist()) + "\n")
        try:
            beside.rename(folder / role)
        except OSError:
            if not (folder / role).is_dir():
                raise
            shutil.rmtree(beside)
    return folder
