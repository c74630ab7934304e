"""Access to the Hugging Face Hub: a time limit, files of a repository, and errors in one line."""

from pathlib import Path

from huggingface_hub import constants, get_session, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError, LocalEntryNotFoundError

REQUEST_TIMEOUT = 30.0  # seconds; without it huggingface_hub waits forever
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


def check_reachable(source: str | Path) -> None:
    """Requests the config of a Hub model (any source that is no local path) within the time limit, which transformers lacks.

    Raises:
        OSError, ValueError, HTTPError: the Hub cannot be reached; see `describe_hub_error`.
    """
    if not Path(source).exists():
        hub_file(str(source), "config.json")


def hub_file(repository: str, name: str) -> Path | None:
    """A file of a repository, in the cache; None if it has no such file, as opposed to a Hub that cannot be reached.

    Raises:
        OSError, ValueError, HTTPError: the Hub cannot be reached; see `describe_hub_error`.
    """
    set_request_timeout()
    try:
        cached = try_to_load_from_cache(repository, name)  # a path, a mark that there is none, or None
        if cached is None:
            return Path(hf_hub_download(repository, name))
        return Path(cached) if isinstance(cached, str) else None
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        return None
