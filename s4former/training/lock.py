"""One run to a folder: none is overwritten, and run.lock in it names the host and the process that trains there."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ConfigError
from ..evaluation.model_choice import has_checkpoint

LOCK = "run.lock"


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

    Raises:
        ConfigError: another process holds it, or may do so on another host.
    """
    if not is_main_process:
        yield ()
        return
    lock, created = folder / LOCK, [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        remarks = acquire(lock)
        try:
            yield remarks
        finally:
            lock.unlink(missing_ok=True)
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
            holder = check_holder(lock, own["host"])
            remarks = (f"took over {lock.parent} from process {holder}, which has ended",)
            lock.unlink(missing_ok=True)


def check_holder(lock: Path, host: str) -> int:
    """The process that holds a lock, if it has ended on this host; else a `ConfigError`."""
    try:
        holder = json.loads(lock.read_text())
        name, process, started = holder["host"], int(holder["process"]), holder["started"]
    except (OSError, ValueError, KeyError, TypeError):
        name, process, started = "an unknown host", 0, ""
    other = "give another folder with run.output=..."
    if name != host:
        raise ConfigError(
            f"{lock.parent} belongs to process {process} on {name}, and from here nobody sees whether it still trains; if it"
            f" has ended, delete {lock}, else {other}"
        )
    if start_time(process) == started:
        raise ConfigError(f"{lock.parent} is in use: process {process} on this host trains there; stop it, or {other}")
    return process


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
