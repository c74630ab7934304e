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
from .hub import first_line, hub_response, is_hub_id, set_request_timeout
from .known_encoders import KNOWN_ENCODERS

DATASETS = {"voc": "PASCAL VOC 2012", "shapes": "drawn shapes", "coco": "COCO 2017", "cityscapes": "Cityscapes"}
# Model types that transformers does not have: the files saved beside the weights.
MODEL_FILES = {
    "setr": ["setr.py", "plain_vit.py"], "dino_dpt": ["dpt.py", "plain_vit.py"], "dino_upernet": ["upernet.py"],
    "deeplabv3plus": ["deeplab.py"],
}  # fmt: skip
LEAST_TRANSFORMERS = "5.17"  # also in pyproject.toml and in the first of the files above, which check it
# Licences of known weights, as the Hub names them, by the beginning of their Hub id; "other" is the owner's own.
LICENCES = {
    "facebook/deit-": "apache-2.0", "facebook/dinov2-": "apache-2.0", "facebook/dinov3-": "other", "google/vit-": "apache-2.0",
    "nvidia/mit-": "other", "timm/resnet": "bsd-3-clause",
}  # fmt: skip

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


def save_model(
    network: nn.Module, folder: Path, *, config: Config, mean: Sequence[float], std: Sequence[float],
    thresholds: Sequence[float] = (),
) -> None:  # fmt: skip
    """Writes weights, image processor and config; thresholds: of every class, where they followed the teacher."""
    sides = {"short_side": config.evaluation.short_side, "long_side": config.evaluation.long_side}
    save_network(network, folder, mean, std, **sides, levels=config.data.levels)
    (folder / "s4former.json").write_text(json.dumps(to_dict(config), indent=2) + "\n")
    if thresholds:
        (folder / "thresholds.json").write_text(json.dumps([round(value, 4) for value in thresholds]) + "\n")


def export(
    network: nn.Module, folder: Path, *, config: Config, provenance: Provenance, **saved: Sequence[float]
) -> None:
    """Writes a folder that `AutoModelForSemanticSegmentation.from_pretrained` loads; replaces an older one whole.

    saved: `mean`, `std` and `thresholds` of `save_model`. On a `WriteError` the older folder is still there.
    """
    partial = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
    with writing(folder, partial):
        save_model(network, partial, config=config, **saved)
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
        license=licence(config.model) or None,
        base_model=base_model(config.model) or None,
        datasets=[config.data.root] if config.data.source == "hub" else None,
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
    kind, deep = network.config.model_type, config.data.levels[0] != config.data.levels[1]
    files = MODEL_FILES.get(kind, []) + (["deep_images.py"] if deep else [])
    remote = ", trust_remote_code=True" if files else ""
    code_note = f"\n`trust_remote_code` runs `{'`, `'.join(files)}` of this model.\n" if files else ""
    needs = f"torch{', timm' if kind == 'deeplabv3plus' else ''} and transformers; transformers {LEAST_TRANSFORMERS} or newer"
    terms = licence(config.model) or "not stated here; those of the weights it started from and of the data hold"
    versions = ", ".join(f"{package} {version}" for package, version in provenance.versions.items())
    return f"""# {provenance.method} on {name}

The {provenance.role} network after {provenance.step} steps of {provenance.method}.
{score}

| | |
|---|---|
| architecture | {config.model.architecture}, {initialization_of(config.model)} |
| base model | {base_model(config.model) or "none on the Hub"} |
| licence | {terms} |
| needs | {needs} |
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
{code_note}{use_notes(config)}
## Training

    {provenance.command}

| list | images | SHA-256 of its ids, sorted, one a line |
|---|---|---|
{lists}

With {versions}.
The whole configuration is in `s4former.json`.
"""


def base_model(model: Model) -> str:
    """The Hub id of the weights that training started from; empty where they are local or random."""
    source = model.start_from or (KNOWN_ENCODERS.get(model.encoder, (model.encoder,))[0] if model.pretrained else "")
    return source if "/" in source and is_hub_id(source) and not Path(source).exists() else ""


def licence(model: Model) -> str:
    """The licence of the weights that training started from, as the Hub names it; empty = not known here."""
    return next((name for start, name in LICENCES.items() if base_model(model).startswith(start)), "")


def use_notes(config: Config) -> str:
    """Where the pipeline of the folder gives other class maps than those that were scored, and what it does with deep images."""
    evaluation, (low, high), notes = config.evaluation, config.data.levels, []
    if evaluation.mode == "sliding" or evaluation.scales != (1.0,) or evaluation.flip:
        notes.append("The score is that of windows, scales or mirrored images put together; the pipeline reads an image once, whole.")
    elif evaluation.short_side and evaluation.rounding != "down":
        notes.append("The longer side was rounded half up for the score; the image processor rounds it down, by a pixel at most.")
    if low != high:
        notes.append(
            f"It was trained on images of more than 8 bits, of which {low:g} became black and {high:g} white (`data.levels`):"
            " pipeline and image processor take such files as they are, and refuse images of 8 bits."
        )
    return "".join(f"\n{note}\n" for note in notes)


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
