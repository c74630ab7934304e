"""Looks at a folder of your own photos and writes a config that trains on them.

    s4former new-config PHOTOS -o mine.json
    s4former new-config --images 'photos/*.jpg' --masks 'drawn/*_seg.png' -o mine.json

PHOTOS holds labeled/, unlabeled/ and val/, or images/ and masks/ where some images have no mask, or is as an annotation tool
or a data set leaves it (docs/own_images.md has a table), or is a list of lines image<TAB>mask. Beside mine.json come its three
lists, mine.labeled.txt and so on; nothing is written into PHOTOS.
"""

import argparse
from collections.abc import Sequence

from ..errors import reports_errors


@reports_errors("s4former new-config")
def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    from .config_file import write_config  # not before the arguments are parsed

    write_config(options)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="s4former new-config", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", metavar="PHOTOS", nargs="?", help="a folder, or a list of images and masks")
    add("--images", default="", metavar="PATTERN", help="of images, in quotes; * is the same text as in --masks")
    add("--masks", default="", metavar="PATTERN", help="of their masks")
    add("-o", "--output", default="mine.json", metavar="FILE", help="default: mine.json")
    add("--classes", nargs="+", default=[], metavar="NAME", help="names in the order of the ids, or ID=NAME; else classes.txt")
    add("--ignore", nargs="+", type=int, default=[], metavar="ID", help="ids in the masks that mean no label")
    add("--palette", default="", metavar="FILE", help="names and colours of masks of colours; else palette.json")
    add("--encoder", default="", metavar="NAME", help="model.encoder; default: a DeiT for this machine")
    add("--class-weights", action="store_true", help="weigh classes by how rare they are (method.class_weights)")
    add("--validation", type=float, default=0.2, metavar="SHARE", help="of the labels, if there is no val/ (0.2)")
    add("--seed", type=int, default=0, help="of that choice")
    options = parser.parse_args(arguments)
    if bool(options.images) != bool(options.masks) or not (options.folder or options.images):
        parser.error("give the folder PHOTOS, or both --images and --masks")
    if not 0 < options.validation < 1:
        parser.error(f"--validation is {options.validation}; write a share between 0 and 1")
    return options
