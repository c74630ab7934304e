"""Pretrain the small encoder that comes with the package, on drawn scenes of classes that the demo never shows.

    s4former pretrain --output my_vit --steps 2600 --scenes 4000

The folder loads with `ViTModel.from_pretrained(FOLDER, add_pooling_layer=False)`.
"""

import argparse
from pathlib import Path
from typing import Sequence


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of the description and shows defaults."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("s4former pretrain", description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder to write; must not exist")
    add("--steps", type=int, default=800, help="optimizer steps")
    add("--seed", type=int, default=7, help="of the scenes, the initial weights and the views")
    add("--batch", type=int, default=64, help="views in a step; a multiple of 4")
    add("--scenes", type=int, default=2000, help="scenes drawn before the first step")
    add("--learning-rate", type=float, default=2e-3, help="AdamW's peak; Muon's is ten times it")
    add("--width", type=int, default=128, help="of a token; heads are 32 wide")
    add("--layers", type=int, default=6, help="transformer blocks")
    add("--workers", type=int, default=2, help="processes that draw scenes; 0 draws in this one")
    options = parser.parse_args(arguments)
    for name, divisor, reason in (("batch", 4, "whole views come in quarters of it"), ("width", 32, "heads are 32 wide")):
        value = getattr(options, name)
        if value % divisor:
            parser.error(f"--{name} is {value}, but {reason}; use {max(1, round(value / divisor)) * divisor}")
    if options.output.exists():
        parser.error(f"--output {options.output} exists and is never overwritten; remove it or name another folder")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)

    from .pretraining import model_card, pretrain, save_encoder  # after parsing: torch takes seconds

    encoder, results = pretrain(options)
    save_encoder(encoder, options.output, model_card(options, results))
    print(f"wrote {options.output}")
