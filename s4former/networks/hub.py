"""What a Hub answered when it was asked for something, in one line."""

from pathlib import Path

from huggingface_hub import constants, get_session, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError, LocalEntryNotFoundError

REQUEST_TIMEOUT = 30.0  # seconds without a sign of life from the Hub; left alone huggingface_hub waits for ever
HUB_ERRORS = (OSError, ValueError, HTTPError)  # what asking a Hub raises; a broken connection is httpx's error alone


def set_request_timeout() -> None:
    """Makes every request of this process to the Hub give up after `REQUEST_TIMEOUT` seconds of silence."""
    get_session().timeout = REQUEST_TIMEOUT


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def hub_response(error: BaseException | None, endpoint: str = "") -> str | None:
    """What the Hub said, found behind an error of transformers, datasets or huggingface_hub; None if it said nothing.

    'https://huggingface.co answered 401 Unauthorized: Invalid credentials; log in with `hf auth login`, or set HF_TOKEN'
    """
    endpoint = endpoint or constants.ENDPOINT
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            told = (error.server_message or "").strip().splitlines()[:1]
            hint = ["log in with `hf auth login`, or set HF_TOKEN"] if status in (401, 403) else []
            return "; ".join([": ".join([f"{endpoint} answered {status} {error.response.reason_phrase}", *told]), *hint])
        if isinstance(error, HTTPError):
            return f"no connection to {endpoint} ({type(error).__name__}: {first_line(error)})"
        error = error.__cause__ or error.__context__
    return None


def describe_hub_error(error: BaseException) -> str:
    """Why something could not be had from the Hub: its answer, else the first line of the error."""
    return hub_response(error) or first_line(error)


def check_reachable(source: str | Path) -> None:
    """Asks for the config of a Hub model, which is any source that is not here: what transformers asks first has no time limit.

    Raises:
        OSError, ValueError, HTTPError: the Hub cannot be asked; see `describe_hub_error`.
    """
    if not Path(source).exists():
        hub_file(str(source), "config.json")


def hub_file(repository: str, name: str) -> Path | None:
    """A file of a repository, in the cache; None if it has no such file, which differs from a Hub that cannot be asked.

    Raises:
        OSError, ValueError, HTTPError: the Hub cannot be asked; see `describe_hub_error`.
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
