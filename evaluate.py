"""Evaluates a segmentation model: `python evaluate.py --help`; the code is in s4former/commands/evaluate.py."""

import sys

from s4former.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main(program="evaluate.py"))
