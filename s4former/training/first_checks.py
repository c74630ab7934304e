"""What is checked before torch is loaded, which takes seconds that no typo should wait for: names, paths, and the folder of a run.

A folder has one run: none is overwritten, and run.lock in it names the host and the process that trains there.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..config import Config
from ..errors import ConfigError
from ..evaluation.model_choice import has_checkpoint
from ..networks.hub import is_hub_id, similar_path
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
    """Keeps other runs out of a folder; yields a line for the log if the lock of a dead process was taken over.

    `ConfigError` if another process holds it, or may do so on another host.
    """
    if not is_main_process:
        yield ()
        return
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        remarks = acquire(folder / LOCK)
        try:
            yield remarks
        finally:
            (folder / LOCK).unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # what holds nothing was not needed
            for path in created:
                path.rmdir()


def acquire(lock: Path) -> tuple[str, ...]:
    """Creates the lock, in the place of one whose process has ended on this host."""
    own = {"host": socket.gethostname(), "process": os.getpid(), "started": start_time(os.getpid())}
    remarks: tuple[str, ...] = ()
    while True:
        try:
            with open(lock, "x") as file:
                json.dump(own, file)
            return remarks
        except FileExistsError:
            check_holder(lock, own["host"])
            remarks = (f"took over {lock.parent} from a process that has ended",)
            lock.unlink(missing_ok=True)


def check_holder(lock: Path, host: str) -> None:
    """`ConfigError` unless the process that holds a lock has ended on this host."""
    try:
        holder = json.loads(lock.read_text())
        name, process, started = holder["host"], int(holder["process"]), holder["started"]
    except (OSError, ValueError, KeyError, TypeError):
        name, process, started = "an unknown host", 0, ""
    if name != host or start_time(process) == started:
        raise ConfigError(
            f"{lock.parent} is in use by process {process} on {name}; stop it, or give another folder with run.output=...;"
            f" if it has ended, delete {lock}"
        )


def start_time(process: int) -> str | None:
    """When a process began, as the kernel counts (numbers of processes come again); '' where it does not say; None = ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # another user's
        pass
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return None if state == "Z" else fields[18]
