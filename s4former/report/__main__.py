"""`python -m s4former.report RUN`: writes the report of a run once more, from what lies in its folder."""

import argparse
import sys
from typing import Sequence

from .page import write_report
from .run import ReportError


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m s4former.report", description=__doc__)
    parser.add_argument("run", help="folder of a run: one that is training, was killed, or has ended")
    try:
        print(write_report(parser.parse_args(arguments).run))
    except ReportError as error:
        print(f"s4former.report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
