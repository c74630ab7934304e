"""The unlabelled pool after training: pseudo masks of all of it, and which of its images are worth labelling next.

    s4former pool runs/demo -o pool [--best] [--top 100] [data.root=...]

    pool/masks/ID.png            in the ids (or colours) of the data's own masks, no label where confidence is not above the threshold
         ids.json                which id is which class, "" is no label; every mask states it too, and is read in no other ids
         confidence/ID.png       grey, 255 = certain
         worth_labelling.csv     the images to label next, the best first

The threshold is method.threshold, or after a run with method.thresholds=per_class the last one of each class.

The order follows the rule in commands/pool_ranking.py: doubt counts, doubt about what is rare counts more, and an image like
those above it in the list counts less.
"""

import argparse
import sys
from pathlib import Path
from typing import Sequence

from ..config import from_dict, set_override
from ..data.sources import load_sources
from ..errors import ConfigError, DataError, describe_error
from ..evaluation.model_choice import CheckpointError
from ..networks.hub import similar_path
from .chosen_model import choose_model
from .pool_ranking import rank, write_list


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("s4former pool", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run, or a model of one")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--best", action="store_true", help="the best of the run, not the last")
    parser.add_argument("--top", type=int, default=100, metavar="N", help="length of the list; default 100")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N images of the pool")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="set one key of the config")
    options = parser.parse_intermixed_args(arguments)

    try:
        if not Path(options.run).exists():
            hint = similar_path(options.run) or "give a run, or a model of one"
            raise CheckpointError(f"there is no folder {options.run}; {hint}")
        choice = choose_model(options.run, best=options.best)
        if not choice.config:
            raise CheckpointError(f"{choice.source} does not say what its pool is (it has no s4former.json); give a run")
        for override in options.overrides:
            set_override(choice.config, override)
        config = from_dict(choice.config)
        sources = load_sources(config.data)

        from .pool_masks import predict_pool  # not before the arguments are checked: torch takes seconds

        pool, unreadable = predict_pool(choice, config, sources, options.output, options.limit)
        write_list(options.output / "worth_labelling.csv", pool, rank(pool, options.top), sources.classes)
    except (CheckpointError, ConfigError, DataError, OSError) as error:
        print(f"s4former pool: {describe_error(error)}", file=sys.stderr)
        return 1
    files = f"pseudo masks of {len(pool.ids)} images in {options.output}"
    print(f"{choice.description}: {files}; worth_labelling.csv says what to label next")
    for message in unreadable:
        print(f"not read: {message}", file=sys.stderr)
    return 1 if unreadable else 0
