"""The figures S1 to S4 of the paper's supplement: `s4former figures attention|classes|views|compare`."""

from ..errors import UserError


def require_matplotlib() -> None:
    """A `UserError` where it is missing: training does without it."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise UserError("needs matplotlib; pip install matplotlib") from None
