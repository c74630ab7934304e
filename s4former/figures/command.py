"""Draws the figures of the paper's supplement as OUTPUT.png and OUTPUT.pdf.

    s4former figures attention runs/base runs/s4former --image 2007_000033 --patch 9 20 --output figures/S1
    s4former figures classes runs/base runs/s4former --output figures/S2
    s4former figures views --config configs/voc_92.json --output figures/S3
    s4former figures compare runs/sup runs/base runs/s4former --output figures/S4

A checkpoint is a run (its last teacher, or student), a model in it such as runs/demo/best-student, or a Hub id. Keys of the
config can be set behind it: data.root=/data/VOC evaluation.short_side=0.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ..commands.chosen_model import choose_model, explained_out_of_memory
from ..config import load
from ..errors import UserError, at_least, reports_errors
from . import require_matplotlib

FIGURES = {
    "attention": "to what one patch attends (Figure S1)",
    "classes": "change of IoU per class between two runs (Figure S2)",
    "views": "what the student sees (Figure S3)",
    "compare": "predictions side by side (Figure S4)",
}


@reports_errors("s4former figures")
def main(arguments: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="s4former figures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figure", choices=FIGURES, help="; ".join(f"{name}: {what}" for name, what in FIGURES.items()))
    figure = parser.parse_args(arguments[:1]).figure
    options = parse(figure, arguments[1:])
    overrides = [text for text in options.sources if "=" in text and not os.path.exists(text)]
    sources = [text for text in options.sources if text not in overrides]
    require_matplotlib()
    if figure == "views" and sources:
        raise UserError(f"cannot read {sources[0]!r}; write section.key=value")
    elif figure == "views":
        load(Path(options.config), overrides)
    elif not sources:
        raise UserError("give one checkpoint or more: a run, a model in it, or the id of one on the Hub")
    elif figure == "attention" and len(options.patch) != len(options.image):
        raise UserError(f"{len(options.image)} --image and {len(options.patch)} --patch; give one for each image")
    elif figure == "classes" and len(sources) != 2:
        raise UserError(f"a change is from one run to another; got {len(sources)} runs, give two")
    for source in sources:
        choose_model(source)

    from .page import save_figure  # not before the arguments are checked: matplotlib takes seconds

    with explained_out_of_memory():
        drawn = import_module(f"{__package__}.{figure}").draw(sources, overrides, options)
    written = save_figure(drawn, options.output)
    print("wrote " + " and ".join(map(str, written)))


def parse(figure: str, arguments: Sequence[str]) -> argparse.Namespace:
    example = next(line for line in __doc__.splitlines() if f" figures {figure} " in line)
    parser = argparse.ArgumentParser(
        prog=f"s4former figures {figure}", description=f"Draws {FIGURES[figure]}.\n\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("sources", nargs="*", metavar="CHECKPOINT | section.key=value", help="checkpoints, and keys to set")
    add("--output", required=True, metavar="FILE", help="without suffix; .png and .pdf are written")
    if figure == "attention":
        patch = {"nargs": 2, "type": int, "metavar": ("ROW", "COLUMN"), "help": "on the first checkpoint's grid; one per image"}
        add("--image", action="append", required=True, metavar="PATH_OR_ID", help="may be repeated")
        add("--patch", action="append", default=[], **patch)
        add("--layer", type=int, default=-1, metavar="N", help="block, from 0; default: the last")
    elif figure == "classes":
        add("--examples", type=at_least(1), metavar="N", help="images beside the bars; default: what fits")
        add("--look", type=at_least(1), default=100, metavar="N", help="among how many images they are found; default 100")
    elif figure == "views":
        add("--config", required=True, metavar="FILE")
        add("--step", type=at_least(0), default=0, metavar="N", help="of which the images are shown; default 0")
        add("--count", type=at_least(1), default=4, metavar="N", help="of images; default 4, a group that mixes")
    else:
        add("--images", nargs="+", metavar="PATH_OR_ID", help="default: evaluation images, evenly spaced")
        add("--count", type=at_least(1), default=5, metavar="N", help="of images, where --images names none; default 5")
    if figure != "views":
        count = 2 if figure == "classes" else "+"
        add("--names", nargs=count, metavar="NAME", help="of the checkpoints; default: their methods")
    return parser.parse_intermixed_args(arguments)
