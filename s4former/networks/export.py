"""A trained network as a Hugging Face model: weights, image processor, model card; and its upload to the Hub."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HTTPError  # the last is httpx's, or httpx2's
from huggingface_hub.utils import disable_progress_bars
from torch import nn

from ..config import IGNORE_INDEX, Config, Model, to_dict
from ..files import replace_folder, writing
from .build import save_network
from .hub import first_line, hub_response, set_request_timeout

DATASETS = {"voc": "PASCAL VOC 2012", "shapes": "drawn shapes", "coco": "COCO 2017", "cityscapes": "Cityscapes"}
# Model types that transformers does not have: the file saved beside the weights, and what it needs.
MODEL_FILES = {
    "setr": ("setr.py", "torch and transformers"),
    "dino_dpt": ("dpt.py", "torch and transformers"),
    "deeplabv3plus": ("deeplab.py", "torch, transformers and timm"),
}

# What huggingface_hub raises when a push fails. Its answers with a status are HTTPErrors and OSErrors at once, a broken,
# refused or silent connection an HTTPError alone; offline mode, a missing token and a full disk are OSErrors; what is
# no answer of a Hub is a ValueError or a KeyError; the upload of a large file wraps all of them in a RuntimeError.
FAILURES = (HTTPError, OSError, ValueError, KeyError, RuntimeError)


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from: what its card states."""

    method: str
    role: str  # teacher or student
    step: int
    scores: dict[str, Any] | None  # at this step, as in results.json: mean_iou, iou per class, pixel_accuracy
    chosen: bool  # among several on the evaluation images
    lists: dict[str, dict[str, Any]]  # images and SHA-256 of the labelled, unlabelled and validation lists
    command: str
    versions: dict[str, str]
    address: str = ""  # the repository on the Hub; empty = a local folder
    thresholds: tuple[float, ...] = ()  # of every class, where they followed the teacher; empty = method.threshold for all


def export(
    network: nn.Module,
    folder: Path,
    *,
    config: Config,
    mean: Sequence[float],
    std: Sequence[float],
    provenance: Provenance,
) -> None:
    """Writes a folder that `AutoModelForSemanticSegmentation.from_pretrained` loads; replaces an older one whole.

    Raises:
        WriteError: the disk is full or read-only; the older folder is still there.
    """
    partial = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
    with writing(folder, partial):
        save_network(network, partial, mean, std, config.evaluation.short_side)
        (partial / "s4former.json").write_text(json.dumps(to_dict(config), indent=2) + "\n")
        if provenance.thresholds:
            (partial / "thresholds.json").write_text(json.dumps(provenance.thresholds) + "\n")
        model_card(config, network, provenance).save(partial / "README.md")
        replace_folder(partial, folder)


# ---- the model card


def model_card(config: Config, network: nn.Module, provenance: Provenance) -> ModelCard:
    """The card: what was trained on what, with which seed, how well, and how to use it."""
    name = DATASETS.get(config.data.source, Path(config.data.root).name or config.data.source)
    mean_iou = (provenance.scores or {}).get("mean_iou")
    result = EvalResult(
        task_type="image-segmentation",
        dataset_type=config.data.source,
        dataset_name=name,
        metric_type="mean_iou",
        metric_value=round(mean_iou or 0.0, 4),
        metric_name="mean IoU",
    )
    semi_supervised = [] if config.method.teacher == "none" else ["semi-supervised"]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=["semantic-segmentation", *semi_supervised, "s4former"],
        model_name=f"{provenance.method} {provenance.role} on {name}",
        eval_results=None if mean_iou is None else [result],
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + card_text(config, network, provenance, name))


def initialization_of(model: Model) -> str:
    """What training started from."""
    return f"starting from {model.start_from}" if model.start_from else f"encoder {model.encoder}"


def card_text(config: Config, network: nn.Module, provenance: Provenance, name: str) -> str:
    """The card without its front matter, in Markdown."""
    mean_iou = (provenance.scores or {}).get("mean_iou")
    score = "Not evaluated at this step." if mean_iou is None else f"**{100 * mean_iou:.1f} % mean IoU**"
    if mean_iou is not None:
        chosen = ", chosen among several on the evaluation images" if provenance.chosen else ""
        score += f" on the validation list{chosen}."
    evaluation = config.evaluation
    size = f"short side {evaluation.short_side}" if evaluation.short_side else "original size"
    limit = f", the first {evaluation.limit} images" if evaluation.limit else ""
    unused = {"unlabeled"} if config.method.teacher == "none" else set()
    lists = "\n".join(
        f"| {part}{' (not used)' if part in unused else ''} | {entry['images']} | `{entry['sha256']}` |"
        for part, entry in provenance.lists.items()
    )
    labels = list(network.config.id2label.values())
    code = MODEL_FILES.get(network.config.model_type)
    remote = ", trust_remote_code=True" if code else ""
    code_note = "\n`trust_remote_code` runs `{}` of this model, which needs nothing but {}.\n".format(*code) if code else ""
    versions = ", ".join(f"{package} {version}" for package, version in provenance.versions.items())
    return f"""# {provenance.method} on {name}

The {provenance.role} network after {provenance.step} steps of {provenance.method}.
{score}

| | |
|---|---|
| architecture | {config.model.architecture}, {initialization_of(config.model)} |
| data | {name} |
| evaluation | {evaluation.mode} images, {size}{limit} |
| seed | {config.run.seed} |
| classes | {len(labels)}: {", ".join(labels)} |

Id {IGNORE_INDEX} in a mask is no class: such pixels count nowhere.

## Use

```python
from transformers import pipeline

segment = pipeline("image-segmentation", model="{provenance.address or "path/to/this/folder"}"{remote})
for part in segment("photo.jpg"):
    print(part["label"], part["mask"].size)
```
{code_note}{levels_note(config)}
## Training

    {provenance.command}

| list | images | SHA-256 of its ids, sorted, one a line |
|---|---|---|
{lists}

With {versions}.
The whole configuration is in `s4former.json`.
"""


def levels_note(config: Config) -> str:
    """How images of more than 8 bits become what the network was trained on; empty where training had none."""
    low, high = config.data.levels
    if low == high:
        return ""
    return f"""
It was trained on images of more than 8 bits, of which {low:g} became black and {high:g} white (`data.levels`). The pipeline
clips such files at 255, so give it 8-bit images made in the same way:

```python
import numpy
from PIL import Image

values = numpy.asarray(Image.open("photo.tif")).astype(float)
grey = (values - {low:g}) * (255 / ({high:g} - {low:g}))
photo = Image.fromarray((grey.clip(0, 255) + 0.5).astype(numpy.uint8)).convert("RGB")
```
"""


# ---- upload to the Hub


def push(folder: Path, repository: str, message: str) -> str | None:
    """Uploads an exported folder that nobody writes to meanwhile; returns None, or in one line why it failed.

    huggingface_hub repeats what a Hub refuses for the moment (half a minute in all), and waits `hub.REQUEST_TIMEOUT` for
    each answer.
    """
    disable_progress_bars()  # a run has its own
    api = HfApi()
    try:
        set_request_timeout()
        repository = api.create_repo(repository, exist_ok=True).repo_id
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    except FAILURES as error:
        return describe_push_error(error, api.endpoint)
    return None


def describe_push_error(error: BaseException, endpoint: str) -> str:
    """Why a push failed, in one line."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__  # 'Error while uploading FILE to the Hub.' keeps the reason behind it
    if isinstance(error, HTTPError):
        return hub_response(error, endpoint)
    text = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, (json.JSONDecodeError, KeyError)):
        return f"{endpoint} does not answer as a Hub does ({text})"
    return text
