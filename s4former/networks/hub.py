"""Access to the Hugging Face Hub: a time limit, files of a repository, and errors in one line."""

from functools import cache
from pathlib import Path

from huggingface_hub import constants, get_session, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError, LocalEntryNotFoundError

from ..files import similar_path

REQUEST_TIMEOUT = 30.0  # seconds; without it huggingface_hub waits forever
ANSWER_WITHIN = 5.0  # seconds, of a Hub that is reached at all
HUB_ERRORS = (OSError, ValueError, HTTPError)  # of requests to a Hub; a broken connection is httpx's error alone


def set_request_timeout() -> None:
    """Makes every request of this process to the Hub fail after `REQUEST_TIMEOUT` seconds without an answer."""
    get_session().timeout = REQUEST_TIMEOUT


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def hub_response(error: BaseException | None, endpoint: str = "") -> str | None:
    """The answer of the Hub behind an error of transformers, datasets or huggingface_hub; None if it gave none.

    'https://huggingface.co answered 401 Unauthorized: Invalid credentials; log in with `hf auth login`, or set HF_TOKEN'
    """
    endpoint = endpoint or constants.ENDPOINT
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            message = (error.server_message or "").strip().splitlines()[:1]
            hint = ["log in with `hf auth login`, or set HF_TOKEN"] if status in (401, 403) else []
            return "; ".join([": ".join([f"{endpoint} answered {status} {error.response.reason_phrase}", *message]), *hint])
        if isinstance(error, HTTPError):
            return f"no connection to {endpoint} ({type(error).__name__}: {first_line(error)})"
        error = error.__cause__ or error.__context__
    return None


def describe_hub_error(error: BaseException) -> str:
    """Why something could not be loaded from the Hub: its answer, else the first line of the error."""
    return hub_response(error) or first_line(error)


def check_reachable(source: str | Path, *, is_id: bool = False) -> None:
    """Requests the config of a Hub model (any source that is no local path) within the time limit, which transformers lacks.

    Args:
        is_id: it is surely one, so that a local folder with the name of its owner says nothing.

    Raises:
        OSError, ValueError, HTTPError: a path that is not there, which is no question to the Hub; or the Hub cannot be
            reached; see `describe_hub_error`.
    """
    if not Path(source).exists():
        if not (is_id or is_hub_id(str(source))):
            raise FileNotFoundError("; ".join(filter(None, [f"there is no folder {source}", similar_path(source)])))
        hub_file(str(source), "config.json")


@cache
def check_answers(endpoint: str) -> None:
    """Asks a Hub for anything once: huggingface_hub tries again for minutes where none is reached.

    Raises:
        HTTPError: no answer within `ANSWER_WITHIN` seconds.
    """
    if not constants.HF_HUB_OFFLINE:
        get_session().head(endpoint, timeout=ANSWER_WITHIN)


def is_hub_id(text: str) -> bool:
    """Whether 'name' or 'owner/name' may be on the Hub: no path, and its first part no folder here."""
    parts = text.split("/")
    return len(parts) <= 2 and all(part.strip(".~") for part in parts) and not (len(parts) == 2 and Path(parts[0]).exists())


def hub_file(repository: str, name: str) -> Path | None:
    """A file of a repository, in the cache; None if it has no such file, as opposed to a Hub that cannot be reached.

    Raises:
        OSError, ValueError, HTTPError: the Hub cannot be reached; see `describe_hub_error`.
    """
    set_request_timeout()
    try:
        cached = try_to_load_from_cache(repository, name)  # a path, a mark that there is none, or None
        if cached is None:
            check_answers(constants.ENDPOINT)
            return Path(hf_hub_download(repository, name))
        return Path(cached) if isinstance(cached, str) else None
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        return None
