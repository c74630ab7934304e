"""Results of several runs as one Markdown table.

    s4former table runs/seed0 runs/seed1 runs/seed2
    s4former table --paired base docs/measured/archive.jsonl.gz
    s4former table --paired labels_only docs/measured/archive.jsonl.gz --figure docs/measured/gains.svg

Runs that differ only in seed and image lists become one row, mean ± sample standard deviation (number of runs) of the
mIoU in percent. "best" was chosen on the evaluation images and is no estimate of what the model does on others.
`--paired` reads the archive of a study and compares its methods in pairs (archive.py).
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, Sequence

from ..config import flatten
from ..errors import DataError, reports_errors
from ..figures import require_matplotlib
from .archive import NETWORKS, class_table, compare_methods, paired_table, read_archive

# What may differ between the runs of one row: the draw, and what has no influence on the numbers.
DRAW = ("run.seed", "data.labeled", "data.unlabeled")
WITHOUT_INFLUENCE = (
    "run.output", "run.log_every", "run.checkpoint_every", "run.keep", "run.trackers", "run.push_to_hub", "run.push_every",
    "data.workers", "data.cache", "data.colours", "data.root", "data.validation", "evaluation.batch", "evaluation.both_modes",
)
# Of a Hub dataset: rows of different ones, or of different splits, may have the same ids, so their lists do not tell them apart.
HUB_IDENTITY = ("data.root", "data.unlabeled", "data.validation")
SUFFIXES = (".svg", ".png", ".pdf")  # of a figure
COLUMNS = (("student", "last"), ("student", "best"), ("teacher", "last"), ("teacher", "best"))


def read_results(run: str | Path) -> dict[str, Any]:
    """The results.json of a run folder, or of the file itself."""
    path = Path(run)
    path = path / "results.json" if path.is_dir() else path
    try:
        results = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"there is no {path}; a run writes its results.json when it ends") from None
    except ValueError as error:
        hint = "an archive is read with --paired METHOD" if path.suffix == ".gz" else "was the run stopped while writing?"
        raise DataError(f"{path} is not valid JSON ({error}); {hint}") from None
    missing = [key for key in ("method", "config", "seed", "last", "best", "lists") if key not in results]
    if missing:
        raise DataError(f"{path} has no {', '.join(missing)}; it was not written by train_semi.py")
    return {**results, "path": str(path)}


def setting_of(results: dict[str, Any]) -> dict[str, str]:
    """What defines a row: config, method and numbers of images, without the draw of seed and lists."""
    # values as JSON text, so that they can be compared and shown
    config = {key: json.dumps(value, sort_keys=True) for key, value in flatten(results["config"]).items()}
    kept = HUB_IDENTITY if results["config"]["data"]["source"] == "hub" else ()
    setting = {key: value for key, value in config.items() if key in kept or key not in DRAW + WITHOUT_INFLUENCE}
    if results.get("changes"):
        setting["resumed with"] = "; ".join(results["changes"])
    setting["method"] = results["method"]
    for name in ("labeled", "unlabeled"):
        setting[f"{name} images"] = str(results["lists"].get(name, {}).get("images", 0))
    # another evaluation list is another measurement
    setting["evaluation list"] = results["lists"].get("validation", {}).get("sha256", "")[:12]
    return setting


def group_runs(runs: Sequence[dict[str, Any]]) -> list[tuple[dict[str, str], list[dict[str, Any]]]]:
    """(setting, its runs) in order of first appearance.

    Raises:
        DataError: when one seed with the same lists is there twice; counting it twice would shrink the spread.
    """
    groups: dict[tuple[tuple[str, str], ...], dict[tuple[Any, ...], dict[str, Any]]] = {}
    for results in runs:
        lists = results["lists"]
        members = groups.setdefault(tuple(sorted(setting_of(results).items())), {})
        draw = (results["seed"], *(lists.get(name, {}).get("sha256") for name in ("labeled", "unlabeled")))
        if draw in members:
            raise DataError(
                f"{results['path']} and {members[draw]['path']} have the same setting, lists and seed {results['seed']};"
                " leave one of them out"
            )
        members[draw] = results
    return [(dict(setting), list(members.values())) for setting, members in groups.items()]


def format_scores(values: Sequence[float]) -> str:
    """'61.20 ± 0.75 (3)' in percent; '-' where there is no spread or no value at all."""
    if not values:
        return "-"
    spread = f"{100 * statistics.stdev(values):.2f}" if len(values) > 1 else "-"
    return f"{100 * statistics.mean(values):.2f} ± {spread} ({len(values)})"


def row_name(setting: dict[str, str]) -> tuple[str, str]:
    return setting["method"], setting["labeled images"]


def differing_keys(settings: Sequence[dict[str, str]], setting: dict[str, str]) -> str:
    """What distinguishes a setting from the others of the same method and number of labels: 'key=value, ...'."""
    same_name = [other for other in settings if row_name(other) == row_name(setting)]
    keys = dict.fromkeys(key for other in same_name for key in other if any(each.get(key) != other[key] for each in same_name))
    return ", ".join(f"{key}={setting.get(key, '-')}" for key in keys).replace('"', "").replace("|", "\\|")


def results_table(runs: Sequence[dict[str, Any]]) -> str:
    """The Markdown table of results as `read_results` gives them; a network that no run has (Sup-Only: the teacher) is '-'."""
    groups = group_runs(runs)
    differences = [differing_keys([setting for setting, _ in groups], setting) for setting, _ in groups]
    extra = any(differences)
    lines = [["method", "labelled", *(f"{network}, {moment}" for network, moment in COLUMNS), *["differs in"] * extra]]
    for (setting, members), difference in zip(groups, differences):
        entries = [[results[moment].get(network) for results in members] for network, moment in COLUMNS]
        scores = [[entry["mean_iou"] for entry in column if entry and entry["mean_iou"] is not None] for column in entries]
        lines.append([*row_name(setting), *map(format_scores, scores), *[difference or "-"] * extra])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(text.ljust(width) for text, width in zip(line, widths)) + " |" for line in lines)


def image_range(text: str) -> slice:
    """'0:250' as a slice; either end may be left out."""
    first, colon, last = text.partition(":")
    if not colon or not all(end.isdecimal() for end in (first, last) if end):
        raise argparse.ArgumentTypeError(f"{text!r} is no range; write FIRST:END, such as 0:250")
    return slice(*(int(end) if end else None for end in (first, last)))


@reports_errors("s4former table")
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("s4former table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run, or its results.json")
    parser.add_argument("--paired", metavar="BASE", help="RUN is an archive: compare its methods with this one, in pairs")
    parser.add_argument("--network", choices=NETWORKS, default="student", help="with --paired: whose mIoU, or both's mean")
    parser.add_argument(
        "--images", type=image_range, default=slice(None), metavar="FIRST:END",
        help="with --paired: only these of the evaluation images, such as 0:250",
    )  # fmt: skip
    parser.add_argument("--by-image", action="store_true", help="with --paired: mIoU of every image, averaged; scatters less between runs")
    parser.add_argument("--by-class", action="store_true", help="with --paired: the difference of every class as well, pair by pair")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="with --paired: draws the differences")
    options = parser.parse_args(arguments)
    if options.paired and len(options.runs) > 1:
        parser.error("--paired reads one archive")
    if not options.paired and (options.by_image or options.by_class or options.network != "student" or options.images != slice(None)):
        parser.error("--network, --images, --by-image and --by-class say how --paired compares; add --paired METHOD")
    if options.figure and (not options.paired or options.figure.suffix not in SUFFIXES):
        parser.error(f"--figure draws what --paired compares, as FILE{', FILE'.join(SUFFIXES)}")
    if options.paired:
        archive = Path(options.runs[0])
        if not archive.is_file():
            raise DataError(f"there is no archive {archive}; s4former study writes one")
        compared = compare_methods(read_archive(archive), options.paired, options.network, options.images, options.by_image)
        if not (compared := {title: methods for title, methods in compared.items() if methods}):
            raise DataError(f"no other method has a draw in common with {options.paired}; run more of the grid")
        print(paired_table(compared, options.paired, options.network))
        if options.by_class:
            print(f"\n{class_table(compared, options.paired)}")
        if options.figure:
            require_matplotlib()
            from ..figures.differences import draw_differences

            draw_differences(compared, options.paired, options.figure)
        what = "Mean over images of their mIoU" if options.by_image else "mIoU"
        print(f"\n{what} in percent, bootstrap over draws and test images. A method without a teacher counts by its student.")
    else:
        print(results_table([read_results(run) for run in options.runs]))
        print("\nmIoU in percent, mean ± sample standard deviation (runs). best: chosen on the evaluation images.")
