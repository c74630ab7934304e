"""What is checked before torch is loaded, which takes seconds that no typo should wait for: names and the run's folder.

A folder has one run: none is overwritten, and run.lock in it names the host and the process that trains there.
"""

import fcntl
import os
import socket
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, TextIO

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..config import Config
from ..errors import ConfigError
from ..evaluation.model_choice import has_checkpoint
from ..files import similar_path
from ..networks.hub import is_hub_id
from ..networks.known_encoders import check_encoder_name

LOCK = "run.lock"


def check_names(config: Config) -> None:
    """`ConfigError` for a model, encoder or repository that cannot be one; none of them is opened."""
    start, repository = config.model.start_from, config.run.push_to_hub
    if start and not Path(start).exists() and not is_hub_id(start):
        hint = similar_path(start) or "give a folder with a model, or the id of one on the Hub"
        raise ConfigError(f"model.start_from is {start!r}, but there is no such folder; {hint}")
    if not start:
        check_encoder_name(config.model.encoder)
    try:
        if repository:
            validate_repo_id(repository)
    except HFValidationError as error:
        reason = str(error).split(f": {repository!r}")[0]
        raise ConfigError(f"run.push_to_hub is {repository!r}: {reason}; write it as owner/name") from error


def holds_a_run(folder: Path) -> bool:
    return has_checkpoint(folder) or (folder / "results.json").exists()


def check_folder(folder: Path, resume: bool) -> None:
    """`ConfigError` if a folder holds a run that another would overwrite, or none that could be resumed.

    Under `torchrun --max-restarts N`, which gives the same command again after a crash, --resume begins where nothing is yet.
    """
    begins = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0 and not holds_a_run(folder)
    if resume and not has_checkpoint(folder) and not begins:
        raise ConfigError(
            f"there is nothing to resume: {(folder / 'checkpoints').absolute()} holds no checkpoint; leave out --resume to begin,"
            " or say with run.output=... where the run is"
        )
    if not resume and holds_a_run(folder):
        raise ConfigError(
            f"{folder} already holds a run; add --resume to go on with it, give another folder with run.output=..., or delete it"
        )


@contextmanager
def lock_folder(folder: Path, is_main_process: bool = True) -> Iterator[tuple[str, ...]]:
    """Keeps other runs out of a folder; yields a line for the log if it is taken over from a process that has ended.

    `ConfigError` if another process holds it, or may do so on another host.
    """
    if not is_main_process:
        yield ()
        return
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with open(folder / LOCK, "a+") as file:
            remarks = acquire(folder, file)
            try:
                yield remarks
            finally:
                (folder / LOCK).unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # what holds nothing was not needed
            for path in created:
                path.rmdir()


def acquire(folder: Path, file: TextIO) -> tuple[str, ...]:
    """Locks the file, which the system undoes when the process ends, and writes into it who has it, for other hosts."""
    host = socket.gethostname()
    file.seek(0)
    holder = file.read()
    try:
        # flock would be held by loader workers too; this is lost if the process opens the file once more and closes it
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = not holder or holder.endswith(f" on {host}")
    except (BlockingIOError, PermissionError):
        free = False
    except OSError:  # a file system without locks
        free = not holder
    if not free:
        raise ConfigError(
            f"{folder} is in use by {holder or 'another process'}; stop it, or give another folder with run.output=...;"
            f" if it has ended on another host, delete {folder / LOCK}"
        )
    file.truncate(0)
    print(f"process {os.getpid()} on {host}", end="", file=file, flush=True)
    return (f"took over {folder} from {holder}, which has ended",) if holder else ()
