"""The model that a command is given, also of a run that has not ended."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..config import Config, from_dict, set_override
from ..errors import DamageError, DataError
from ..evaluation import model_choice
from ..evaluation.model_choice import CheckpointError, ModelChoice, NoModelYet, has_checkpoint, model_of_run

if TYPE_CHECKING:  # not loaded with this module, so that a mistake in arguments is told at once
    import torch
    from transformers import PreTrainedModel

    from ..evaluation.inference import Setting


def choose_model(checkpoint: str | None, role: str | None = None, best: bool = False) -> ModelChoice:
    """As `model_choice.choose_model`; of a run that has checkpoints and no model yet, the one of the newest checkpoint."""
    try:
        return model_choice.choose_model(checkpoint, role, best)
    except NoModelYet as error:
        if best or not has_checkpoint(error.run):
            raise
        from ..training.resume import export_newest  # not at the top: it loads torch

        try:
            folder = export_newest(error.run)
        except DamageError as damage:
            raise CheckpointError(str(damage)) from None
        name = f"{error.run}, a run that has not ended, at step {int(folder.name[5:])}"
        return model_of_run(folder, role, False, name)


def choose_with_config(checkpoint: str, overrides: Sequence[str], best: bool = False) -> tuple[ModelChoice, Config]:
    """A model, and the config beside it with section.key=value laid over it; a `CheckpointError` if there is none."""
    choice = choose_model(checkpoint, best=best)
    if not choice.config:
        raise CheckpointError(f"{choice.source} does not say what its data are (it has no s4former.json); give a run, or a model of one")
    for override in overrides:
        set_override(choice.config, override)
    return choice, from_dict(choice.config)


def load_model(choice: ModelChoice, config: Config, device: "torch.device | None" = None) -> "tuple[PreTrainedModel, Setting]":
    """The network in eval mode, and how it reads images. device: by default the accelerator where there is one."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from ..evaluation.inference import Setting
    from ..networks.build import load_network

    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    mean, std = model_choice.read_mean_std(choice.source)
    disable_progress_bar()  # of transformers, one for the tensors it loads
    network = load_network(choice.source).to(device).eval()
    return network, Setting(evaluation=config.evaluation, crop=config.data.crop, mean=mean, std=std, device=device)


def check_classes(network: "PreTrainedModel", classes: Sequence[str]) -> None:
    """Refuses a network of another number or order of classes than the data have; says so of other names."""
    from ..networks.start_from import same_classes

    source, known = network.name_or_path, [str(network.config.id2label.get(index)) for index in range(network.config.num_labels)]
    if len(known) != len(classes):
        raise CheckpointError(
            f"{source} tells {len(known)} classes apart, but the data have {len(classes)}"
            f" ({', '.join(classes[:4])}, ...); give the data it was trained for, or map its ids with data.id_map"
        )
    if not same_classes(known, classes):
        index = next(index for index, name in enumerate(known) if name.lower() != classes[index].lower())
        message = f"class {index} of {source} is {known[index]!r}, that of the data {classes[index]!r}"
        if same_classes(sorted(known, key=str.lower), sorted(classes, key=str.lower)):
            raise CheckpointError(f"{message}; give the ids its order with data.id_map, or the names, data.classes={json.dumps(known)}")
        print(f"{message}; they are compared by number", file=sys.stderr)


@contextmanager
def explained_out_of_memory() -> Iterator[None]:
    """Says what to do about images that are too large for a device, in a `DataError`."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DataError(
            f"{str(error).splitlines()[0]} Take a smaller evaluation.batch (--batch), or evaluation.mode=sliding (--sliding-window) for"
            " large images"
        ) from error
