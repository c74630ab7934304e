"""The model that a command is given, also of a run that has not ended."""

from ..errors import DamageError
from ..evaluation import model_choice
from ..evaluation.model_choice import CheckpointError, ModelChoice, NoModelYet, has_checkpoint, model_of_run


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
