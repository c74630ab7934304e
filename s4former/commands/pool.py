"""The unlabelled pool after training: pseudo masks of all of it, and which of its images are worth labelling next.

    s4former pool runs/demo -o pool [--best] [--top 100] [data.root=...]

    pool/masks/ID.png            in the ids (or colours) of the data's own masks, no label where confidence is not above the threshold
         ids.json                which id is which class, "" is no label; every mask states it too, and is read in no other ids
         confidence/ID.png       grey, 255 = certain
         worth_labelling.csv     the images to label next, the best first
         worth_labelling.png     the first of them to look at

    s4former pool runs/demo -o pool --top 20 --copy-to next        # and copies of them with masks that tools can correct

    next/JPEGImages/ID.jpg, ID.json         the image, and the prediction as polygons of LabelMe: labelme next/JPEGImages
         SegmentationClass/ID.png, ...      the prediction as "Segmentation mask 1.1", for CVAT: next/cvat.zip

The threshold is method.threshold, or after a run that moved it (method.thresholds) the last one of each class.

The order follows the rule in commands/pool_ranking.py: doubt counts, doubt about what is rare counts more, and an image like
those above it in the list counts less.
"""

import argparse
import sys
from pathlib import Path
from typing import Sequence

from ..data.sources import load_sources
from ..errors import DataError, at_least, reports_errors
from ..evaluation.model_choice import CheckpointError
from ..evaluation.photo_files import check_output
from ..networks.hub import similar_path
from .chosen_model import choose_with_config, explained_out_of_memory
from .pool_ranking import rank, write_list


@reports_errors("s4former pool")
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("s4former pool", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run, or a model of one")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--best", action="store_true", help="the best of the run, not the last")
    parser.add_argument("--top", type=at_least(1), default=100, metavar="N", help="length of the list; default 100")
    parser.add_argument("--copy-to", type=Path, metavar="DIR", help="copy the images of the list, with pre-labels for CVAT and LabelMe")
    parser.add_argument("--limit", type=at_least(0), default=0, metavar="N", help="only the first N images of the pool")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="set one key of the config")
    options = parser.parse_intermixed_args(arguments)

    if not Path(options.run).exists():
        hint = similar_path(options.run) or "give a run, or a model of one"
        raise CheckpointError(f"there is no folder {options.run}; {hint}")
    choice, config = choose_with_config(options.run, options.overrides, options.best)
    sources = load_sources(config.data)

    if options.copy_to and options.copy_to.exists() and any(options.copy_to.iterdir()):
        raise DataError(f"{options.copy_to} is not empty; give another folder to copy to, since labels may lie in it")

    check_output(options.output, pool=True)

    from .pool_masks import load_predictor, predict_pool  # not before the arguments are checked: torch takes seconds
    from .pool_sheet import SHOWN, copy_for_tools, draw_sheet, ranked_images

    predictor = load_predictor(choice, config, sources.classes)
    with explained_out_of_memory():
        pool, unreadable = predict_pool(predictor, config, sources, options.output, options.limit)
    ranked, classes = rank(pool, options.top), sources.classes
    write_list(options.output / "worth_labelling.csv", pool, ranked, classes)
    images = ranked_images(pool, ranked[:SHOWN], predictor, config.data, sources)
    draw_sheet(options.output / "worth_labelling.png", images, pool, classes, config.data)
    print(f"{choice.description}: pseudo masks of {len(pool.ids)} images in {options.output}; worth_labelling.csv and .png say what to label next")
    if options.copy_to:
        copy_for_tools(options.copy_to, ranked_images(pool, ranked, predictor, config.data, sources), classes, config.data)
        print(f"to correct: labelme {options.copy_to / 'JPEGImages'}, or {options.copy_to / 'cvat.zip'} as Segmentation mask 1.1 in CVAT")
    for message in unreadable:
        print(f"not read: {message}", file=sys.stderr)
    return 1 if unreadable else 0
