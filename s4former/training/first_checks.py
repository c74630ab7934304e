"""What of a run's names and paths is checked before torch is loaded, which takes seconds that no typo should wait for."""

from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..config import Config
from ..errors import ConfigError
from ..networks.hub import is_hub_id, similar_path
from ..networks.known_encoders import check_encoder_name


def check_names(config: Config) -> None:
    """`ConfigError` for a model, encoder or repository that cannot be one; none of them is opened."""
    start = config.model.start_from
    if start and not Path(start).exists() and not is_hub_id(start):
        hint = similar_path(start) or "give a folder with a model, or the id of one on the Hub"
        raise ConfigError(f"model.start_from is {start!r}, but there is no such folder; {hint}")
    if not start:
        check_encoder_name(config.model.encoder)
    check_repository(config.run.push_to_hub)


def check_repository(repository: str) -> None:
    """Refuses an id that the Hub would refuse; '' means no Hub.

    Raises:
        ConfigError: what is wrong with it, in words.
    """
    try:
        if repository:
            validate_repo_id(repository)
    except HFValidationError as error:
        reason = str(error).split(f": {repository!r}")[0]
        raise ConfigError(f"run.push_to_hub is {repository!r}: {reason}; write it as owner/name") from error
