"""The model that a command is given, also of a run that has not ended."""

from dataclasses import replace

from ..errors import DamageError
from ..evaluation import model_choice
from ..evaluation.model_choice import ROLES, CheckpointError, ModelChoice, NoModelYet


def choose_model(checkpoint: str | None, role: str | None = None, best: bool = False) -> ModelChoice:
    """As `model_choice.choose_model`; of a run that has checkpoints and no model yet, the one of the newest checkpoint."""
    try:
        return model_choice.choose_model(checkpoint, role, best)
    except NoModelYet as error:
        from ..training.resume import export_newest  # not at the top: it loads torch

        try:
            folder = export_newest(error.run)
        except DamageError as damage:
            raise CheckpointError(str(damage)) from None
        roles = [each for each in ROLES if (folder / each).is_dir()]
        if role and role not in roles:
            raise CheckpointError(f"{folder} has no {role}, only a {roles[0]}; leave out --model or write --model {roles[0]}") from None
        role = role or roles[0]
        name = f"{error.name}: {role} at step {int(folder.name[5:])}, the newest checkpoint of a run that has not ended"
        return replace(model_choice.choose_model(str(folder / role)), description=name)
