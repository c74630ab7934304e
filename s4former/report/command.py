"""Writes report.html of a run again, from what lies in its folder: a run that is training, was killed, or has ended.

    s4former report runs/demo
"""

import argparse
from typing import Sequence

from ..errors import reports_errors


@reports_errors("s4former report")
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("s4former report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of the run")
    folder = parser.parse_args(arguments).run
    from .page import write_report  # not before the arguments are parsed

    print(write_report(folder))
