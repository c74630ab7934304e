"""Draws the annotations of a labelling tool as masks, which `s4former new-config` then finds beside their images.

    s4former rasterize photos -o photos/masks
    s4former new-config photos -o mine.json

DIR holds images and what a tool exported for them: JSON of LabelMe, COCO (also of Roboflow, CVAT and Label Studio) or
Supervisely, YOLO's outlines, or CVAT's XML for images. Nothing but the masks is written.

A pixel belongs to a thing if its centre does. Things lie over each other as in the tool: those of a higher z_order, else the
later ones, on top. Holes are left open, crowd regions are no label. Pixels that nobody drew on are the class background.
"""

import argparse
from collections.abc import Sequence

from ..errors import reports_errors
from .formats import MARKS


@reports_errors("s4former rasterize")
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "s4former rasterize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", metavar="DIR")
    add("-o", "--output", default="", metavar="DIR", help="where the masks go; default: masks/ in DIR")
    add("--background", default="background", metavar="NAME", help="class of pixels that nobody drew on; ignore: no label")
    add("--empty", action="store_true", help="an image on which nothing is drawn gets a mask as well, else it is left unlabelled")
    add("--crowds", action="store_true", help="crowd regions of COCO are objects")
    add("--smaller-on-top", action="store_true", help="of overlapping things the smaller lies on top")
    add("--format", choices=list(MARKS), help="where a folder holds annotations of several tools")
    add("--overwrite", action="store_true", help="draw masks anew that are there already")
    options = parser.parse_args(arguments)
    from .masks import rasterize  # not before the arguments are parsed

    print("\n".join(rasterize(options)))
