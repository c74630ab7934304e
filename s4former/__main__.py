"""The console command `s4former`, also `python -m s4former`: one command for each thing to do, each with its own --help."""

import difflib
import sys
from importlib import import_module
from typing import Sequence

COMMANDS = {  # name -> (module with `main`, what it does)
    "new-config": ("s4former.new_config.command", "look at a folder of your own photos and write a config for them"),
    "rasterize": ("s4former.rasterize.command", "draw polygons of LabelMe, COCO, YOLO, Supervisely or CVAT as masks"),
    "prepare": ("s4former.prepare.command", "make VOC, Cityscapes or COCO ready to train on, and verify it"),
    "check": ("train_semi", "look at data, memory, time and disk of a run, and write nothing"),
    "train": ("train_semi", "train from labelled and unlabelled images, as train_semi.py does"),
    "evaluate": ("s4former.commands.evaluate", "score a model, as evaluate.py does"),
    "predict": ("s4former.commands.predict", "class maps of photos without masks"),
    "pool": ("s4former.commands.pool", "pseudo masks of the unlabelled images, and which to label next"),
    "report": ("s4former.report.page", "write the report of a run again"),
    "onnx": ("s4former.commands.onnx", "export a model as one ONNX file"),
    "table": ("s4former.commands.table", "results of several runs as one Markdown table"),
    "study": ("s4former.commands.study", "run a grid of methods and seeds side by side"),
    "figures": ("s4former.figures.command", "draw the figures of the paper's supplement"),
    "benchmark": ("s4former.benchmark.command", "time the parts of a training and compute its memory"),
}
USAGE = """usage: s4former COMMAND [ARGUMENT ...]

{commands}

    s4former train --config configs/demo.json
    s4former train --help

Several processes: accelerate launch train_semi.py --config ... in a clone of the repository. The files in configs/ are in the
repository only, not in an installed package; there, new-config writes a config for your own photos."""


def main(arguments: Sequence[str] | None = None) -> int:
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(USAGE.format(commands="\n".join(f"  {name:12}{summary}" for name, (_, summary) in COMMANDS.items())))
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        repair = f"did you mean {close[0]}?" if close else f"one of {', '.join(COMMANDS)}"
        print(f"s4former: there is no command {name!r}; {repair}", file=sys.stderr)
        return 2
    # train_semi.py reads sys.argv, since it is a script too
    sys.argv = [f"s4former {name}", *(["--check"] if name == "check" else []), *rest]
    return import_module(COMMANDS[name][0]).main() or 0


if __name__ == "__main__":
    sys.exit(main())
