"""The errors that a user sees: sentences that say what was found, what the rule is, and how to mend it."""

import argparse
import errno
import functools
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

# What a user can do about a write that the system refuses.
REPAIRS = {
    errno.ENOSPC: "free some space on that disk, or write to another one (a run: run.output=FOLDER)",
    errno.EDQUOT: "free some space: the quota of this account is used up",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "make that disk writable, or write to another one (a run: run.output=FOLDER)",
    errno.EACCES: "make that folder writable, or write to another one (a run: run.output=FOLDER)",
}


class UserError(ValueError):
    """An error whose message tells a user what was found, what the rule is, and what to do instead."""


class ConfigError(UserError):
    """A config that cannot be used; the message says which key, which value, and what to write instead."""


class DataError(UserError):
    """Data that cannot be used; the message says which file, which rule, and what to do instead."""


class DamageError(UserError):
    """No checkpoint of a run is what it was when written; the message names them."""


class WriteError(OSError):
    """Something could not be written; the message says what, why, and what to free or to change."""


def find_os_error(error: BaseException | None) -> OSError | None:
    """The system's error behind one of torch or safetensors, which raise their own; None if there is none."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        if isinstance(error, SafetensorError) and (number := re.search(r"os error (\d+)", str(error))):
            return OSError(int(number[1]), os.strerror(int(number[1])))
        error = error.__cause__ or error.__context__
    return None


def describe_error(error: Exception, path: Path | None = None) -> str:
    """An error in one sentence: the system's with its file (else `path`), reason and repair; ours are sentences already."""
    if isinstance(error, WriteError) or not isinstance(error, OSError):
        return str(error)
    path = path if error.filename is None else Path(os.fsdecode(error.filename))
    return (f"{path}: " if path else "") + describe_os_error(error, path)


def describe_os_error(error: OSError, path: Path | None) -> str:
    """'No space left on device (0.1 GiB free); free some space on that disk, or ...'."""
    reason = error.strerror or str(error)
    folder = next((folder for folder in (path, *path.parents) if os.path.exists(folder)), None) if path else None
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and folder:
        reason += f" ({gibibytes(shutil.disk_usage(folder).free)} free)"
    return f"{reason}; {REPAIRS[error.errno]}" if error.errno in REPAIRS else reason


def reports_errors(program: str) -> Callable[[Callable[..., int | None]], Callable[..., int]]:
    """Makes the main function of a command print the errors that a user sees as one sentence, and return its exit status."""

    def decorate(main: Callable[..., int | None]) -> Callable[..., int]:
        @functools.wraps(main)
        def run(*arguments: Any) -> int:
            try:
                return main(*arguments) or 0
            except (UserError, OSError) as error:  # OSError: a disk that is full, a folder that cannot be written
                print(f"{program}: {describe_error(error)}", file=sys.stderr)
                return 1

        return run

    return decorate


def at_least(least: int) -> Callable[[str], int]:
    """The argparse type of whole numbers that are not below `least`."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return int(text)

    return number


def gibibytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


# ---- words for messages


def plural(count: int, word: str) -> str:
    """'1 image', '2 images'."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def join_first(values: Sequence[Any], most: int = 8) -> str:
    """'1, 2, 3 and 4 more': at most `most` of the values."""
    return ", ".join(map(str, values[:most])) + (f" and {len(values) - most} more" if len(values) > most else "")
