"""An archive of finished runs, and its methods compared in pairs.

It is a .jsonl.gz file with one record a line, every line a gzip member of its own: concatenated members are one valid gzip
file, so a record is added without compressing those before it again.

A pair is two runs of one study and protocol with the same seed and lists. The interval is that of a bootstrap: a resample draws
draws with replacement and, the same for both members of every pair, test images; its mIoU comes from the sums of the images' pixels.
"""

import fcntl
import gzip
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, plural
from ..evaluation.packed_counts import unpack_counts
from ..files import write_bytes

RESAMPLES, SEED, LEVEL = 2000, 0, 95
NETWORKS = ("student", "teacher", "mean")
Counts = list[np.ndarray]  # of one run: (N, 3, K) of each network that is read; their mIoU are averaged
Runs = dict[tuple[str, ...], dict[str, Any]]  # of one method: draw -> record


def read_archive(path: Path) -> list[dict[str, Any]]:
    """The records of an archive, oldest first; none if there is no such file."""
    try:
        records = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        if not all(isinstance(record, dict) and {"study", "method", "key"} <= record.keys() for record in records):
            raise ValueError("its lines are no records of runs")
        return records
    except FileNotFoundError:
        return []
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path} is not an archive of runs, or is damaged: {error}") from None


def append(path: Path, record: dict[str, Any]) -> bool:
    """Adds a record, unless one with its study, method and key is there; returns whether it was added.

    Safe beside other processes that append to the same file; on the disk when it returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.parent, os.O_RDONLY)  # of the folder, since the file is replaced
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if any(identity(record) == identity(other) for other in read_archive(path)):
            return False
        before = path.read_bytes() if path.exists() else b""
        write_bytes(path, before + gzip.compress(json.dumps(record, separators=(",", ":")).encode() + b"\n", 9, mtime=0))
    finally:
        os.close(lock)
    return True


def identity(record: dict[str, Any]) -> tuple[str, ...]:
    return record["study"], record["method"], record["key"]


# ---- methods in pairs


def class_iou(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percent by class, of pixels (..., 3, K) that are right, predicted and true, and which classes occur in either."""
    right, predicted, true = np.moveaxis(sums, -2, 0).astype(float)
    union = predicted + true - right
    return 100 * np.divide(right, union, out=np.zeros_like(right), where=union > 0), union > 0


def mean_iou(sums: np.ndarray) -> np.ndarray:
    """Percent, of pixels (..., 3, K) that are right, predicted and true; over the classes that occur in either."""
    iou, occurs = class_iou(sums)
    return iou.sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1)


def score(run: Counts, weights: np.ndarray, by_image: bool = False) -> np.ndarray:
    """(R,) mIoU of a run over images with weights (R, N), the mean over its networks."""
    if by_image:
        labeled = [weights * counts[:, 2].any(axis=1) for counts in run]  # images without any label say nothing
        return np.mean([own @ image_iou(counts) / own.sum(axis=1).clip(min=1) for own, counts in zip(labeled, run)], axis=0)
    sums = [(weights @ counts.reshape(len(counts), -1)).reshape(-1, *counts.shape[1:]) for counts in run]
    return np.mean([mean_iou(each) for each in sums], axis=0)


def image_iou(counts: np.ndarray) -> np.ndarray:
    """(N,) percent, of pixels (N, 3, K): the mean IoU over the classes that an image shows; 0 where it shows none.

    Its mean is mIoU^I (Wang et al., Revisiting Evaluation Metrics for Semantic Segmentation, NeurIPS 2023), in which a rare class
    counts as often as it is seen.
    """
    shown = counts[:, 2] > 0
    return (class_iou(counts)[0] * shown).sum(axis=1) / np.maximum(shown.sum(axis=1), 1)


class Comparison(NamedTuple):
    """A method against the base over their pairs, mIoU in percent."""

    pairs: int
    score: float
    base: float
    difference: float
    low: float
    high: float
    same_order: int  # pairs whose difference has the sign of the mean one
    classes: dict[str, np.ndarray]  # of each class the differences of its IoU, one for each pair
    minutes: tuple[float, float] = (0.0, 0.0)  # that a run took in the mean, and one of the base


def compare(pairs: Sequence[tuple[Counts, Counts]], classes: Sequence[str], by_image: bool = False) -> Comparison:
    """Of (run, base run) pairs, all on the same images, the mean difference and its bootstrap interval."""
    images, generator = len(pairs[0][0][0]), np.random.default_rng(SEED)
    weights = generator.multinomial(images, np.full(images, 1 / images), RESAMPLES).astype(float)
    chosen = generator.integers(len(pairs), size=(RESAMPLES, len(pairs)))
    resampled = np.stack([score(run, weights, by_image) - score(base, weights, by_image) for run, base in pairs])
    means = resampled[chosen, np.arange(RESAMPLES)[:, None]].mean(axis=1)
    low, high = np.percentile(means, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    once = np.ones((1, images))
    scores, bases = (np.array([score(pair[side], once, by_image)[0] for pair in pairs]) for side in (0, 1))
    differences = scores - bases
    same_order = (np.sign(differences) == np.sign(differences.mean())).sum()
    iou = [[np.mean([class_iou(counts.sum(axis=0))[0] for counts in member], axis=0) for member in pair] for pair in pairs]
    by_class = dict(zip(classes, np.array([run - base for run, base in iou]).T))
    return Comparison(len(pairs), scores.mean(), bases.mean(), differences.mean(), low, high, same_order, by_class)


def counts_of(record: dict[str, Any], network: str, images: slice, ids: Sequence[str]) -> Counts:
    """Pixel counts of the networks that are scored, of images in the order of `ids`; a run without a teacher is scored by its student."""
    places = {id: place for place, id in enumerate(record["images"]["ids"])}
    order = [places[id] for id in ids][images]
    packed, classes = record["images"]["counts"], len(record["images"]["classes"])
    wanted = list(packed) if network == "mean" else [network if network in packed else "student"]
    if not order:
        raise DataError(f"--images leaves none of the {len(ids)} evaluation images")
    counts = [unpack_counts(packed[name], classes)[order] for name in wanted]
    return counts


def runs_by_method(records: Sequence[dict[str, Any]]) -> dict[tuple[str, str, int], dict[str, Runs]]:
    """(study, protocol, number of labels) -> method -> its runs; one that was archived under another name before has its images from there."""
    complete = {record["key"]: record for record in records if "images" in record}
    groups: dict[tuple[str, str], dict[str, Runs]] = {}
    for record in ({**complete[record["key"]], **record} for record in records if record["key"] in complete):
        group = groups.setdefault((record["study"], record["protocol"], record["lists"]["labeled"]["images"]), {})
        runs = group.setdefault(record["method"], {})
        lists = (record["lists"][part]["sha256"] for part in ("labeled", "unlabeled", "validation"))
        if (draw := (str(record["draw"]["seed"]), *lists)) in runs:
            raise DataError(
                f"study {record['study']} has two different runs of {record['method']} with seed {record['draw']['seed']}: the"
                " method was changed in between; give the changed one another name"
            )
        runs[draw] = record
    return groups


def compare_methods(
    records: Sequence[dict[str, Any]], base: str, network: str = "student", images: slice = slice(None), by_image: bool = False
) -> dict[str, dict[str, Comparison]]:
    """For every study, protocol and number of labels of an archive that has the method `base`, by its title, every other method against it.

    Raises:
        DataError: no such method, two runs of one method on one draw, or draws that are evaluated on other images.
    """
    groups, found = runs_by_method(records), {}
    for (study, protocol, labels), methods in groups.items():
        if base not in methods:
            continue
        first = next(iter(methods[base].values()))["images"]
        ids, classes = {draw: record["images"]["ids"] for draw, record in methods[base].items()}, first["classes"]
        base_counts = {draw: counts_of(record, network, images, ids[draw]) for draw, record in methods[base].items()}
        found[f"{study} (protocol {protocol[:8]}, {plural(labels, 'label')})"] = comparisons = {}
        for method, runs in methods.items():
            draws = sorted(base_counts.keys() & runs, key=lambda draw: (int(draw[0]), draw))
            if len({validation for *_, validation in draws}) > 1:
                raise DataError(f"the draws of study {study} have different evaluation images; give each list a study of its own")
            pairs = [(counts_of(runs[draw], network, images, ids[draw]), base_counts[draw]) for draw in draws]
            if method != base and pairs:
                seconds = ([each[draw]["seconds"] for draw in draws] for each in (runs, methods[base]))
                minutes = tuple(float(np.mean(each)) / 60 for each in seconds)
                comparisons[method] = compare(pairs, classes, by_image)._replace(minutes=minutes)
    if not found:
        names = sorted({method for methods in groups.values() for method in methods})
        raise DataError(f"the archive has no method {base!r}; it has {', '.join(names) or 'no run at all'}")
    return found


def paired_table(compared: dict[str, dict[str, Comparison]], base: str, network: str = "student") -> str:
    """A markdown table for every study and protocol that `compare_methods` returns."""
    titles, text = ["method", "pairs", "mIoU", f"{base}, same draws", "difference", f"{LEVEL} % interval", "order holds", "minutes a run"], []
    for title, methods in compared.items():
        table = [titles, ["---"] * len(titles)]
        for method, of in methods.items():
            table.append([
                method, str(of.pairs), f"{of.score:.2f}", f"{of.base:.2f}", f"{of.difference:+.2f}",
                f"{of.low:+.2f} to {of.high:+.2f}", f"at {of.same_order} of {of.pairs}", "{:.1f} ({:.1f})".format(*of.minutes),
            ])  # fmt: skip
        text.append(f"{title}: {network}, last, against {base}\n\n{markdown(table)}")
    return "\n\n".join(text)


def class_table(compared: dict[str, dict[str, Comparison]], base: str) -> str:
    """A markdown table for every study and protocol: the differences in IoU of every class, pair by pair."""
    text = []
    for title, methods in compared.items():
        classes = next(iter(methods.values())).classes
        table = [["class", *methods], ["---"] * (1 + len(methods))]
        for name in sorted(classes, key=lambda name: -max(np.abs(of.classes[name]).mean() for of in methods.values())):
            table.append([name, *(", ".join(f"{difference:+.0f}" for difference in of.classes[name]) for of in methods.values())])
        text.append(f"{title}: IoU by class, pair by pair, against {base}\n\n{markdown(table)}")
    return "\n\n".join(text)


def markdown(table: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table)
