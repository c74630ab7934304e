"""mIoU of the teacher on the evaluation images of its run, at the weights of checkpoints.

    python docs/measured/scores.py RUN/checkpoints/step-* [RUN/checkpoints/step-* ...]

A study keeps the checkpoints of its runs with --keep. Scored as the run itself would be there.
"""

import argparse
from pathlib import Path

from gradients import load_checkpoint

from s4former.training.results import count_pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    print("| method | seed | step | mIoU |\n| --- | --- | --- | --- |")
    for checkpoint in parser.parse_args().checkpoints:
        training, config, step = load_checkpoint(checkpoint, parser.error)
        matrix = count_pixels(training, training.setting, {"teacher": training.networks["teacher"]})["teacher"]
        print(f"| {config.method.title} | {config.run.seed} | {step} | {100 * matrix.mean_iou():.2f} |", flush=True)


if __name__ == "__main__":
    main()
