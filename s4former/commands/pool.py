"""The unlabelled pool after training: pseudo masks of all of it, and which of its images are worth labelling next.

    s4former pool runs/demo -o pool [--best] [--top 100] [data.root=...]

    pool/masks/ID.png            class ids under the palette of PASCAL VOC, 255 where confidence is not above the threshold
         confidence/ID.png       grey, 255 = certain
         worth_labelling.csv     the images to label next, the best first

The threshold is method.threshold, or after a run with method.thresholds=per_class the last one of each class.

The rule. Of image i let doubt_k(i) be the share of its pixels that the teacher takes for class k, each counting one minus
its confidence. Let seen_k be how much there is of class k that needs no label any more, in whole images: the pseudo labels
of the pool, and all of class k in the images listed before. The next image is the one with the largest

    sum over k of doubt_k(i) / sqrt(0.1 + seen_k)

So doubt counts, doubt about what is rare counts more, and an image like those above it in the list counts less.
"""

import argparse
import sys
from pathlib import Path
from typing import Sequence

from ..config import from_dict, set_override
from ..errors import ConfigError, DataError, describe_error
from ..evaluation.model_choice import CheckpointError, choose_model


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="s4former pool", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a run, or a model of one")
    parser.add_argument("-o", "--output", required=True, metavar="DIR")
    parser.add_argument("--best", action="store_true", help="the best of the run, not the last")
    parser.add_argument("--top", type=int, default=100, metavar="N", help="length of the list; default 100")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N images of the pool")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="set one key of the config")
    options, complaints = parser.parse_intermixed_args(arguments), []
    try:
        choice = choose_model(options.run, best=options.best)
        if not choice.config:
            raise CheckpointError(f"{choice.source} does not say what its pool is (it has no s4former.json); give a run")
        for override in options.overrides:
            set_override(choice.config, override)
        folder, config = Path(options.output), from_dict(choice.config)

        from .pool_ranking import rank, read_pool, write_list  # not before the arguments are checked: torch takes seconds

        pool, classes = read_pool(choice, config, folder, options.limit, complaints)
        write_list(folder / "worth_labelling.csv", pool, rank(pool, options.top), classes)
    except (CheckpointError, ConfigError, DataError, OSError) as error:
        print(f"s4former pool: {describe_error(error)}", file=sys.stderr)
        return 1
    print(
        f"{choice.description}: pseudo masks of {len(pool.ids)} images in {folder}; worth_labelling.csv says what to label next"
    )
    for complaint in complaints:
        print(f"not read: {complaint}", file=sys.stderr)
    return 1 if complaints else 0
