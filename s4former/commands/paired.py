"""Methods compared in pairs: the same draw, the same test images, and the interval of a bootstrap over both.

A pair is two runs of one study and protocol with the same seed and lists. A resample draws draws with replacement and, the
same for both members of every pair, test images; its mIoU comes from the sums of the images' pixels by class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation.packed_counts import unpack_counts
from .archive import ArchiveError

RESAMPLES, SEED, LEVEL = 2000, 0, 95
NETWORKS = ("student", "teacher", "mean")
Counts = list[np.ndarray]  # of one run: (N, 3, K) of each network that is read; their mIoU are averaged


@dataclass(frozen=True)
class Comparison:
    """A method against the base over their pairs, mIoU in percent."""

    method: str
    pairs: int
    score: float
    base: float
    difference: float
    low: float
    high: float
    same_order: int  # pairs whose difference has the sign of the mean one


def mean_iou(sums: np.ndarray) -> np.ndarray:
    """Percent, of pixels (..., 3, K) that are right, predicted and true; over the classes that occur in either."""
    right, predicted, true = np.moveaxis(sums, -2, 0).astype(float)
    union = predicted + true - right
    share = np.divide(right, union, out=np.zeros_like(right), where=union > 0)
    return 100 * share.sum(axis=-1) / np.maximum((union > 0).sum(axis=-1), 1)


def score(run: Counts, weights: np.ndarray) -> np.ndarray:
    """(R,) mIoU of a run over images with weights (R, N), the mean over its networks."""
    sums = [(weights @ counts.reshape(len(counts), -1)).reshape(-1, *counts.shape[1:]) for counts in run]
    return np.mean([mean_iou(each) for each in sums], axis=0)


def compare(method: str, pairs: Sequence[tuple[Counts, Counts]]) -> Comparison:
    """Of (run, base run) pairs, all on the same images, the mean difference and its bootstrap interval."""
    images, generator = len(pairs[0][0][0]), np.random.default_rng(SEED)
    weights = generator.multinomial(images, np.full(images, 1 / images), RESAMPLES).astype(float)
    chosen = generator.integers(len(pairs), size=(RESAMPLES, len(pairs)))
    resampled = np.stack([score(run, weights) - score(base, weights) for run, base in pairs])
    means = resampled[chosen, np.arange(RESAMPLES)[:, None]].mean(axis=1)
    once = np.ones((1, images))
    scores, bases = (np.array([score(pair[side], once)[0] for pair in pairs]) for side in (0, 1))
    differences = scores - bases
    mean = differences.mean()
    low, high = np.percentile(means, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    same_order = int((np.sign(differences) == np.sign(mean)).sum())
    return Comparison(method, len(pairs), scores.mean(), bases.mean(), mean, low, high, same_order)


def counts_of(record: dict[str, Any], network: str, images: slice) -> Counts:
    """Pixel counts of the networks that are scored; a run without a teacher is scored by its student."""
    packed, classes = record["images"]["counts"], len(record["images"]["classes"])
    wanted = list(packed) if network == "mean" else [network if network in packed else "student"]
    counts = [unpack_counts(packed[name], classes)[images] for name in wanted]
    if not len(counts[0]):
        raise ArchiveError(f"--images leaves none of the {len(record['images']['ids'])} evaluation images")
    return counts


def with_images(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with their images, also where a run was archived under another name."""
    complete = {record["key"]: record for record in records if "images" in record}
    return [{**complete[record["key"]], **record} for record in records if record["key"] in complete]


def draw_of(record: dict[str, Any]) -> tuple[str, ...]:
    return (str(record["draw"]["seed"]), *(record["lists"][part]["sha256"] for part in ("labeled", "unlabeled", "validation")))


def paired_table(records: Sequence[dict[str, Any]], base: str, network: str = "student", images: slice = slice(None)) -> str:
    """A markdown table for every study and protocol of an archive that has the method `base`.

    Raises:
        ArchiveError: no such method, or two runs of one method on one draw.
    """
    groups: dict[tuple[str, str], dict[str, dict[tuple[str, ...], dict[str, Any]]]] = {}
    for record in with_images(records):
        runs = groups.setdefault((record["study"], record["protocol"]), {}).setdefault(record["method"], {})
        if draw_of(record) in runs:
            raise ArchiveError(
                f"study {record['study']} has two different runs of {record['method']} with seed {record['draw']['seed']}: the"
                " method was changed in between; give the changed one another name"
            )
        runs[draw_of(record)] = record
    selected = {key: methods for key, methods in groups.items() if base in methods}
    if not selected:
        names = sorted({method for methods in groups.values() for method in methods})
        raise ArchiveError(f"the archive has no method {base!r}; it has {', '.join(names) or 'no run at all'}")
    return "\n\n".join(
        f"{study} (protocol {protocol[:8]}): {network}, last, against {base}\n\n" + comparison_rows(methods, base, network, images)
        for (study, protocol), methods in selected.items()
    )


def comparison_rows(methods: dict[str, dict[tuple[str, ...], dict[str, Any]]], base: str, network: str, images: slice) -> str:
    """The table of one study and protocol."""
    base_counts = {draw: counts_of(record, network, images) for draw, record in methods[base].items()}
    titles = ["method", "pairs", "mIoU", f"{base}, same draws", "difference", f"{LEVEL} % interval", "order holds"]
    table = [titles, ["---"] * len(titles)]
    for method, runs in methods.items():
        pairs = [(counts_of(record, network, images), base_counts[draw]) for draw, record in runs.items() if draw in base_counts]
        if method == base or not pairs:
            continue
        result = compare(method, pairs)
        table.append([
            method, str(result.pairs), f"{result.score:.2f}", f"{result.base:.2f}", f"{result.difference:+.2f}",
            f"{result.low:+.2f} to {result.high:+.2f}", f"at {result.same_order} of {result.pairs}",
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table)
