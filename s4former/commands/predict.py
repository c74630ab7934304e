"""Predicts class maps of photos that need no masks: palette PNGs, overlays and one sheet of all.

    s4former predict photos/ more/ -o predictions                    by the newest run below runs/
    s4former predict 'photos/*.jpg' -o predictions --checkpoint FOLDER_OR_HUB_ID --flip
"""

import argparse
from typing import Sequence

from ..errors import reports_errors
from .evaluate import add_options, run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("s4former predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    photos = "files, folders or 'globs'; also section.key=value, to set one key of the config"
    parser.add_argument("images", nargs="+", metavar="PHOTOS", help=photos)
    parser.set_defaults(overrides=[])
    parser.add_argument("-o", "--output", dest="save_predictions", default="predictions", metavar="DIR", help="default: predictions")
    parser.set_defaults(label_ids=False)
    add_options(parser)
    return reports_errors(parser.prog)(run)(parser.parse_intermixed_args(arguments))
