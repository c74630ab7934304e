"""Draws the figures of the supplement; each command writes OUTPUT.png and OUTPUT.pdf.

    python -m s4former.figures attention runs/base runs/s4former --image 2007_000033 --patch 9 20 --output figures/S1
    python -m s4former.figures classes runs/base runs/s4former --output figures/S2
    python -m s4former.figures views --config configs/voc_92.json --output figures/S3
    python -m s4former.figures compare runs/sup runs/base runs/s4former --output figures/S4

A checkpoint is a run (its last teacher, or student), a model in it such as runs/demo/best-student, or a Hub id. Keys of the
config can be set behind it: data.root=/data/VOC evaluation.short_side=0.
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Sequence

COMMANDS = {
    "attention": "to what one patch attends (Figure S1)",
    "classes": "change of IoU per class between two runs (Figure S2)",
    "views": "what the student sees (Figure S3)",
    "compare": "predictions side by side (Figure S4)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    top = argparse.ArgumentParser(
        prog="python -m s4former.figures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("command", choices=COMMANDS, help="; ".join(f"{name}: {what}" for name, what in COMMANDS.items()))
    command = top.parse_args(arguments[:1]).command
    try:
        import matplotlib  # noqa: F401  (an extra: training does without)
    except ModuleNotFoundError:
        print("s4former.figures: needs matplotlib; pip install matplotlib", file=sys.stderr)
        return 1
    return run(command, arguments[1:])


def run(command: str, arguments: Sequence[str]) -> int:
    from transformers.utils.logging import disable_progress_bar

    from ..errors import ConfigError, DataError, describe_error
    from .checkpoints import FigureError

    disable_progress_bar()  # of transformers, one for the tensors it loads
    room = import_module(f"{__package__}.{command}")
    parser = argparse.ArgumentParser(prog=f"python -m s4former.figures {command}", description=room.__doc__)
    parser.add_argument("sources", nargs="*", metavar="CHECKPOINT | section.key=value", help="checkpoints, and keys to set")
    parser.add_argument("--output", required=True, metavar="FILE", help="without suffix; .png and .pdf are written")
    room.add_options(parser)
    options = parser.parse_intermixed_args(arguments)
    overrides = [text for text in options.sources if "=" in text and not Path(text).exists()]
    sources = [text for text in options.sources if text not in overrides]
    try:
        if not sources and command != "views":
            raise FigureError("give one checkpoint or more: a run, a model in it, or the id of one on the Hub")
        written = room.draw(sources, overrides, options).save(options.output)
    except (FigureError, ConfigError, DataError, OSError) as error:
        print(f"s4former.figures: {describe_error(error)}", file=sys.stderr)
        return 1
    print("wrote " + " and ".join(map(str, written)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
