"""Writes report.html of a run again, from what lies in its folder: a run that is training, was killed, or has ended.

    s4former report runs/demo
"""

import argparse
import sys
from typing import Sequence

from .run import ReportError


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("s4former report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of the run")
    folder = parser.parse_args(arguments).run
    from .page import write_report  # not before the arguments are parsed

    try:
        print(write_report(folder))
    except ReportError as error:
        print(f"s4former report: {error}", file=sys.stderr)
        return 1
    return 0
