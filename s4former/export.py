"""A trained network as a Hugging Face model: weights, image processor, model card; and its way to the Hub."""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from torch import nn

from .checkpoint import replace_folder
from .config import Config, to_dict
from .models import save_network


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from: what its card states."""

    method: str
    role: str  # teacher or student
    step: int
    scores: dict[str, Any] | None  # as in results.json: mean_iou, iou per class, pixel_accuracy
    chosen: bool  # among several on the evaluation images
    lists: dict[str, dict[str, Any]]  # images and SHA-256 of the labelled, unlabelled and validation lists
    command: str
    versions: dict[str, str]


def export(
    network: nn.Module,
    folder: Path,
    *,
    config: Config,
    mean: Sequence[float],
    std: Sequence[float],
    provenance: Provenance,
) -> None:
    """Writes a folder that `AutoModelForSemanticSegmentation.from_pretrained` loads; replaces an older one whole."""
    beside = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(beside, ignore_errors=True)
    save_network(network, beside, mean, std, config.evaluation.short_side or min(config.data.crop))
    (beside / "s4former.json").write_text(json.dumps(to_dict(config), indent=2))
    model_card(config, network, provenance).save(beside / "README.md")
    replace_folder(beside, folder)


def model_card(config: Config, network: nn.Module, provenance: Provenance) -> ModelCard:
    """The card: what was trained on what, with which seed, how well, and how to use it."""
    dataset = {"voc": "PASCAL VOC 2012", "shapes": "drawn shapes", "coco": "COCO 2017", "cityscapes": "Cityscapes"}
    name = dataset.get(config.data.source, Path(config.data.root).name or config.data.source)
    scores = provenance.scores
    results = None
    if scores is not None and scores.get("mean_iou") is not None:
        results = [
            EvalResult(
                task_type="image-segmentation",
                dataset_type=config.data.source,
                dataset_name=name,
                metric_type="mean_iou",
                metric_value=round(scores["mean_iou"], 4),
                metric_name="mean IoU",
            )
        ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=["semantic-segmentation", "semi-supervised", "s4former"],
        model_name=f"{provenance.method} {provenance.role} on {name}",
        eval_results=results,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + card_text(config, network, provenance, name))


def card_text(config: Config, network: nn.Module, provenance: Provenance, name: str) -> str:
    scores = provenance.scores
    remark = ", chosen among several on the evaluation images" if provenance.chosen else ""
    score = "not evaluated" if scores is None else f"{100 * scores['mean_iou']:.1f} % mean IoU"
    lists = "\n".join(
        f"| {part} | {entry['images']} | `{entry['sha256'][:16]}` |" for part, entry in provenance.lists.items()
    )
    remote = ", trust_remote_code=True" if network.config.model_type == "setr" else ""
    versions = ", ".join(f"{package} {version}" for package, version in provenance.versions.items())
    return f"""# {provenance.method} on {name}

The {provenance.role} after {provenance.step} steps: **{score}**{remark}.
Encoder: {config.model.encoder}; architecture: {config.model.architecture}; seed {config.run.seed}.

| list | images | SHA-256 |
|---|---|---|
{lists}

Labels: {", ".join(network.config.id2label.values())}. Id {255} counts as no label.

## Use

```python
from transformers import pipeline

segment = pipeline("image-segmentation", model="THIS_FOLDER_OR_ID"{remote})
segments = segment("photo.jpg")
```

## Training

    {provenance.command}

{versions}. The whole configuration is in `s4former.json`.
"""


def push(folder: Path, repository: str, message: str) -> str | None:
    """Uploads an exported folder from a frozen copy; returns None, or why it failed. Never harms the run."""
    with tempfile.TemporaryDirectory() as temporary:
        frozen = Path(temporary) / "model"
        try:
            shutil.copytree(folder, frozen)
            api = HfApi()
            repository = api.create_repo(repository, exist_ok=True).repo_id
            api.upload_folder(repo_id=repository, folder_path=frozen, commit_message=message)
        # the Hub's errors, a broken connection and a full disk are all OSErrors; a malformed id is a ValueError
        except (OSError, ValueError) as error:
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else error!r}"
    return None
