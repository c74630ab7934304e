"""The configuration of a run: frozen, typed, strict.

The defaults are the paper's setting for PASCAL VOC 2012 with SETR over DeiT-B, so a config file holds only what
differs. This is the only module that parses configs; all others receive the dataclasses. Validation is pydantic's.

    config = load("configs/demo.json", ["schedule.steps=20"])
"""

import dataclasses
import difflib
import functools
import json
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, FiniteFloat, NonNegativeFloat, NonNegativeInt, PositiveFloat, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails, to_jsonable_python

from .errors import ConfigError, DataError
from .files import read_text, similar_path

# Raised by every change of the code after which the same config gives another digit; part of a run's key in an archive.
# 2: in half precision DINOv3 attends with a bias in half precision; means of method.thresholds=per_class are added up in float64;
#    method.normalizer=valid counts the pixels of all accumulation rounds; schedule.floor is 0 with adamw unless it is given
# 3: method.strong_colour=random_intensity posterizes to 4 to 7 bits and solarizes above 1 to 255, as AugSeg does
# 4: the head of DPT is UniMatch V2's: its last convolution after the last x2, corners aligned, logits for every pixel
# 5: evaluation resizes images as the exported processor does (sides rounded down, pixels rounded to 8 bits), and logits to
#    the size of the image in one step
# 6: DeepLabV3+ enlarges its maps with aligned corners, and its logits to the size of the image, as UniMatch does
# 7: in half precision the student's logits stay so until the loss; on a GPU a step multiplies float32 in TF32
# 8: in half precision blocks and norms of a SETR are in bfloat16, the view with a bias shares the encoder's pass, and losses scale
#    their gradient in float32
# 9: in half precision a SegFormer's head mixes its levels before it enlarges them, and on a GPU a SETR's and DPT's maps are enlarged
#    by matrix products
NUMERICS = 9
NOTE = ".note"  # a file may have "KEY.note" beside a KEY
TAKEN_OUT = {"method.pseudo_weight": "none", "method.previous": 0}  # keys of older versions, and what left them without effect
FREE_MAPPINGS = ("data.palette", "data.id_map", "model.encoder_config")  # values, not sections
IGNORE_INDEX = 255  # inside the package; other ids in mask files are mapped to it when they are read

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Colour = Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")]
AnyColour = Annotated[str, Field(pattern="^(#[0-9a-fA-F]{6})?$")]
Tracker = Literal["all", "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"]
STRICT = ConfigDict(strict=True, extra="forbid")

MIX_NAMES = {
    "none": "", "cutmix": "CutMix", "cutmix_small": "CutMix", "cutmix_beta": "CutMix", "cutmix_hardness": "CutMix by hardness",
    "cutout": "CutOut", "classmix": "ClassMix", "classmix_half": "ClassMix", "mixunmix": "Mix/UnMix",
    "adaptive_cutmix": "Adaptive CutMix", "masked": "masked consistency",
}  # fmt: skip


def key(default: Any, description: str, **limits: Any) -> Any:
    """A key of a section: its default, its meaning for --help-config and editors, and its range."""
    return Field(default, description=description, **limits)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Shapes:
    """The drawn data set of the demo: how many scenes, how large, from which seed."""

    labeled: Count = key(16, "scenes with a mask")
    unlabeled: Count = key(1000, "further scenes, whose masks are never drawn")
    validation: Count = key(100, "further scenes, for evaluation only")
    height: int = key(96, "of a scene, pixels", ge=32)
    width: int = key(128, "of a scene, pixels", ge=32)
    seed: NonNegativeInt = key(0, "of the scenes; another seed draws another data set")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Where the images are and how a training crop is cut from one."""

    source: Literal["shapes", "folder", "voc", "cityscapes", "coco", "hub"] = key(
        "voc", "drawn shapes; a folder of images and masks; the published layout of a data set; a dataset of the Hub")
    root: str = key("", "the data folder; for hub the id of a Hub dataset")
    labeled: str = key("", "list file or subfolder of the labelled training images")
    unlabeled: str = key("", "list file or subfolder of the unlabelled images; empty = the training images not labelled")
    validation: str = key("", "list file or subfolder of the images to evaluate on")
    image_column: str = key("", "hub: the column of the images; empty = the one that holds images, by its usual names")
    mask_column: str = key("", "hub: the column of the masks; empty = the other one that holds images, by its usual names")
    classes: tuple[str, ...] = key((), "class names, id 0 first; empty = those of the source")
    classes_file: str = key("", 'instead of classes: a JSON file, a list of names or {"0": "name", ...}')
    ignore_index: int = key(255, "the id in the masks that counts as no label", ge=0, le=65535)
    palette: dict[Colour, int] = Field(default_factory=dict, description='masks of colours: "#rrggbb" -> id it stands for')
    colours: tuple[AnyColour, ...] = key((), 'for pictures alone: "#rrggbb" of each class, "" = any; empty = those of palette')
    id_map: dict[str, int] = Field(
        default_factory=dict, description="id in the masks -> class id (or ignore_index); if it has every class, no other ids are classes")
    levels: tuple[FiniteFloat, FiniteFloat] = key((0.0, 0.0), "images of more than 8 bits: the values that become black and white")
    exif: Literal["upright", "raw"] = key("upright", "masks of photos with an EXIF turn: drawn on the turned photo, or on stored pixels")
    crop: tuple[Count, Count] = key((512, 512), "height, width of a training crop, pixels")
    resize: tuple[Count, Count] = key((2048, 512), "longest, shortest side to fit an image into before ratio, pixels")
    ratio: tuple[PositiveFloat, PositiveFloat] = key((0.5, 2.0), "range of the random scale on top of resize")
    repeat_rare: Share = key(
        0.0, "labelled images with a class that fewer than this share of them show come up sqrt(this / share) times, rounded (LVIS,"
             " Gupta et al. 2019); 0 = all once")
    max_class_share: float = key(0.75, "of a labelled crop; unlabelled crops are plain random", gt=0, le=1)
    flip: Share = key(0.5, "probability that a crop is mirrored")
    workers: NonNegativeInt = key(4, "loader processes per training process")
    draft: bool = key(False, "decode unlabelled JPEGs at 1/2 to 1/8 where no crop needs more; moves pixels by a few grey levels")
    cache: str = key("", "folder that keeps training images and masks decoded, 4 bytes a pixel; empty = decode every time")
    shapes: Shapes = Field(default_factory=Shapes)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Model:
    """The network: an encoder of transformers (or a ResNet of timm) and a decoder."""

    architecture: Literal["setr", "segformer", "dpt", "upernet", "deeplabv3plus"] = key(
        "setr", "a plain ViT under SETR-PUP; SegFormer; DINOv2, DINOv3, other ViTs, CLIP and SigLIP under DPT; DINOv2, DINOv3, Swin,"
                " Hiera and ConvNeXt under UperNet; a ResNet under DeepLabV3+")
    encoder: str = key(
        "deit-base", "a size (deit-tiny .. resnet101), a Hub id, a folder, or a timm-style .pth/.safetensors (ViT, ResNet)")
    start_from: str = key(
        "", "a whole network to start from, folder or Hub id; replaces the other keys here but architecture, which has to be given")
    freeze: int = key(0, "first encoder blocks that are not trained, embeddings included; -1 = all", ge=-1)
    train_only: tuple[str, ...] = key(
        (), "regular expressions (attention, position, \\.bias$): only encoder parameters whose name has one are trained; empty = all")
    low_rank: NonNegativeInt = key(
        0, "rank of adapters (LoRA, by peft) that are trained in place of the encoder, beside its linear layers in train_only; 0 = none")
    pretrained: bool = key(True, "false: the same encoder with random weights, nothing downloaded")
    out_indices: tuple[int, ...] = key((), "blocks that feed the heads of SETR (the last the main one), DPT, UperNet; empty = by depth")
    decoder_channels: Count = key(256, "channels of the heads; not SegFormer")
    decoder_stages: NonNegativeInt = key(0, "SETR: x2 up-sampling stages; 0 = up to the input size")
    encoder_config: dict[str, Any] = Field(
        default_factory=dict, description="keys of the transformers config (dropout, ...); a ResNet: arguments of timm")
    activation_checkpointing: bool = key(False, "trade time for memory in every encoder block")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Method:
    """Sup-Only, Mean Teacher, S4Former and its ablations: rows of one table."""

    preset: Literal["paper", "official"] = key(
        "paper", "official: where the released code differs from the paper, its choices; keys that are given win")
    algorithm: Literal["consistency", "imas", "psmt", "u2pl"] = key(
        "consistency", "the step: that of S4Former and all that are rows of its table; iMAS; PS-MT; U2PL")
    teacher: Literal["ema", "student", "student_in_training", "none"] = key(
        "ema", "gives the pseudo labels: moving average of the student; the student in eval mode, or as it trains; Sup-Only")
    threshold: Share = key(0.95, "a pixel is a pseudo label if its confidence is above")
    thresholds: Literal["fixed", "per_class", "calibrated"] = key(
        "fixed", "the same for every class; lower where the teacher is less sure of a class (FreeMatch); lower, and pixels weighted by"
        " confidence, while fewer confident pixels of held-out labels are right than it asks for (CW-BASS v2)")
    threshold_spread: Share = key(1.0, "per_class: how far they differ, from 0, the same for every class, to 1, FreeMatch's")
    strong_views: Count = key(1, "of an unlabelled image, each with its own colours, mix and order")
    strong_colour: Literal["none", "photometric", "jitter", "random_intensity", "randaugment"] = key(
        "photometric", "photometric distortion; jitter, grey, blur (UniMatch); 1 to 3 of 11 changes (AugSeg); 2 of 12 (iMAS)")
    weak_colour: bool = key(False, "photometric distortion on the teacher's view as well")
    labeled_colour: bool = key(True, "photometric distortion on the labelled images")
    mix: Literal[
        "none", "cutmix", "cutmix_small", "cutmix_beta", "cutmix_hardness", "cutout", "classmix", "classmix_half", "mixunmix",
        "adaptive_cutmix", "masked",
    ] = key("cutmix", "what a strong view receives from other images; cutmix_small: UniMatch's boxes; cutmix_beta: PS-MT's;"
            " cutmix_hardness: iMAS's; classmix_half: half of the classes (ClassMix), classmix: one more (released code);"
            " masked: nothing, blocks are hidden (MIC)")
    mask_ratio: Share = key(0.7, "masked: chance of every PatchShuffle block to be hidden")
    mix_probability: Share = key(
        0.5, "of mixing: one draw a batch; cutmix_small: one an image; cutmix_hardness: by how easy a group is; mixunmix, adaptive_cutmix,"
        " cutmix_beta and masked always do")
    mix_from: Literal["group", "second_batch"] = key("group", "content of the next image of a group, or of a second batch (UniMatch)")
    mix_group: Count = key(4, "consecutive images of the global batch that exchange content")
    patch_shuffle: bool = key(True, "shuffle blocks of the strong view, restore the features before the decoder")
    shuffle_probability: Share = key(0.5, "of PatchShuffle, one draw per image")
    block: Count = key(8, "side of a PatchShuffle block in tokens of the coarsest grid the decoder uses")
    pasa: Literal["none", "main", "reverse1", "reverse2", "product", "all_rows", "rand"] = key(
        "main", "the attention bias of the extra student pass; none = no such pass")
    pasa_alpha: NonNegativeFloat = key(5.0, "scale of the bias")
    pasa_confidence: Literal["probability", "mask"] = key("probability", "what is pooled over a patch; mask: if it is above the threshold")
    pasa_view: Literal["strong", "mixed"] = key("strong", "what the PASA pass sees: the strong view, or what the mix made of it")
    pasa_stages: Literal["last", "all"] = key("last", "SegFormer: only stage 4, or every stage")
    feature_dropout: Share = key(0.0, "share of channels dropped in another student pass; 0 = no such pass")
    feature_view: Literal["strong", "weak"] = key("strong", "colours that the pass of feature_dropout sees")
    complementary_dropout: bool = key(False, "each strong view loses channels that the other keeps, half of the images none (UniMatch V2)")
    regularizer: Literal["none", "ncr", "all_cr", "soft", "soft_labels"] = key(
        "ncr", "beside the cross-entropy on pseudo labels: negative class ranking, all classes, soft cross-entropy")
    regularizer_norm: Literal["l2sq", "l2", "kl"] = key("l2sq", "ncr, all_cr: squared distance, its root (released code), divergence")
    regularizer_weight: NonNegativeFloat = key(1.0, "beside the cross-entropy of the same branch")
    regularizer_on: Literal["both", "strong", "pasa"] = key("both", "the student branches it is applied to")
    regularizer_mixed_teacher: bool = key(True, "mix the teacher's logits with the same boxes as the image")
    unreliable: Share = key(0.2, "U2PL: share of pixels, of the highest entropy, that are negatives; falls linearly to 0")
    memory: Count = key(30_000, "U2PL: negatives that are kept of every class, 1 KiB each")
    prototype_momentum: Share = key(0.0, "U2PL: of a class centre; 0 = that of the step alone (paper; released code: 0.999 by option)")
    adversarial_noise: NonNegativeFloat = key(2.0, "PS-MT: length of the noise on the features of an image, all of them together")
    teacher_turn: Count = key(328, "PS-MT: steps, an epoch, after which the other teacher follows the student")
    normalizer: Literal["all", "valid"] = key(
        "all", "divides a loss: all pixels, or (UniMatch) those of labels and of no padding, over all processes and rounds of a step")
    running_statistics: Literal["all", "labeled"] = key("all", "views that update the running statistics of the decoder's batch norms")
    ignored_as_unlabeled: bool = key(
        False, "labelled images with ignored pixels (scribbles, points) are unlabelled ones too; pseudo labels stand where labels do not")
    class_weights: tuple[NonNegativeFloat, ...] = key((), "of the loss on labels, one for each class; empty = all 1")
    unsupervised_weight: NonNegativeFloat = key(1.0, "of the mean loss over the student branches")
    unsupervised_ramp: NonNegativeInt = key(0, "steps in which that weight rises from 0, on half a cosine")
    auxiliary_weight: NonNegativeFloat = key(0.4, "of each auxiliary head of SETR; 0 = no auxiliary heads")
    burn_in: NonNegativeInt = key(0, "first steps on labels only")
    ema: Share = key(0.999, "decay of the teacher")
    ema_warm_up: bool = key(False, "decay min(1 - 1/(t+1), ema): lets the teacher of a short run follow")
    ema_copies: NonNegativeInt = key(0, "first steps after which the teacher is a copy of the student (AugSeg: an epoch)")
    ema_order: Literal["after", "before"] = key("after", "the teacher follows after or before the optimizer step")

    @property
    def mixes_groups(self) -> bool:
        """Whether images take content from others of their group."""
        return self.teacher != "none" and self.mix not in ("none", "cutout", "masked") and self.mix_from == "group"

    @property
    def keeps_groups_whole(self) -> bool:
        """Whether all images of a group have to lie in one process, instead of it borrowing those it takes content from.

        Tiles are unmixed on the features of all of them; adaptive CutMix and others permute all of them, and adaptive CutMix
        pastes from what they were given themselves; a student in training mode reads only what it trains on.
        """
        return self.mixes_groups and (self.mix in WHOLE_GROUPS or self.teacher == "student_in_training")

    @property
    def title(self) -> str:
        """The method's name in tables: that of its authors where it has one, else the base and the parts that are on."""
        if self.teacher == "none":
            return "Sup-Only"
        parts = [name for name, on in (("PatchShuffle", self.patch_shuffle), ("PASA", self.pasa != "none")) if on]
        parts += [self.regularizer.upper()] if self.regularizer != "none" else []
        if self.algorithm != "consistency":
            return {"imas": "iMAS", "psmt": "PS-MT", "u2pl": "U2PL"}[self.algorithm]
        base = self.base
        if base in ("S4Former-Base", "UniMatch", "UniMatch V2", "AugSeg") and parts == ["PatchShuffle", "PASA", "NCR"]:
            base, parts = "S4Former" if base == "S4Former-Base" else f"{base} + S4Former", []
        return " + ".join([base, *parts])

    @property
    def base(self) -> str:
        """What the parts are added to."""
        if self.strong_views > 1:
            return "UniMatch V2" if self.complementary_dropout else "UniMatch"
        if self.mix == "adaptive_cutmix" and self.strong_colour == "random_intensity":
            return "AugSeg"
        if self.teacher != "ema":
            return "FixMatch" if MIX_NAMES[self.mix] == "CutMix" else f"FixMatch with {MIX_NAMES[self.mix] or 'no mix'}"
        return "S4Former-Base" if self.mix == "cutmix" else " + ".join(filter(None, ["Mean Teacher", MIX_NAMES[self.mix]]))


WHOLE_GROUPS = ("mixunmix", "adaptive_cutmix", "cutmix_beta", "cutmix_hardness")  # mixes that permute the images of a group

# What a step function of its own cannot take, and the values that leave it out; and the mixes that it can.
LEFT_OUT: dict[str, Any] = {
    "teacher": "ema", "thresholds": "fixed", "strong_views": 1, "patch_shuffle": False, "pasa": "none",
    "feature_dropout": 0.0, "regularizer": "none", "normalizer": "all", "ignored_as_unlabeled": False,
}  # fmt: skip
NEED_WHOLE_STEP = ("psmt", "u2pl")  # algorithms whose terms are no sum over images
PLAIN_MIXES = ("none", "cutmix", "cutmix_small", "cutmix_beta", "classmix", "classmix_half")
ALGORITHM_MIXES = {"imas": ("cutmix_hardness",), "psmt": PLAIN_MIXES, "u2pl": PLAIN_MIXES}


# The choices of the released code that change the method; every one is a field, so either preset can be taken apart.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "official": {
        "pasa_confidence": "mask", "regularizer_norm": "l2", "regularizer_on": "strong", "regularizer_mixed_teacher": False,
        "weak_colour": True, "ema_order": "before",
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Optimizer:
    """One optimizer, two groups: the encoder, and everything after it at `head_multiplier` times the rate."""

    name: Literal["sgd", "adamw"] = key("sgd", "optimizer of torch")
    lr: PositiveFloat = key(1e-3, "learning rate of the encoder")
    head_multiplier: PositiveFloat = key(10.0, "factor of the rate of the decoder and the auxiliary heads")
    layer_decay: float = key(1.0, "factor from each encoder block to the one before it; 1 = one rate", gt=0, le=1)
    momentum: Share = key(0.9, "of sgd")
    betas: tuple[Decay, Decay] = key((0.9, 0.999), "of adamw")
    weight_decay: NonNegativeFloat = key(0.0, "not on norms, biases and position embeddings")
    clip_norm: NonNegativeFloat = key(0.0, "of the whole gradient; 0 = no clipping")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Schedule:
    """Polynomial decay to a floor, after an optional linear warm-up."""

    steps: Count = key(80_000, "optimizer steps of the run")
    power: PositiveFloat = key(0.9, "exponent of the decay")
    floor: NonNegativeFloat = key(1e-4, "lowest learning rate, the same for both groups; with adamw 0 unless it is given")
    warm_up: NonNegativeInt = key(0, "steps of the warm-up")
    warm_up_ratio: Share = key(1e-6, "of the rate at step 0")
    restart: NonNegativeFloat = key(
        0.0, "the rate falls to the floor in the steps of method.burn_in, then, with a new optimizer, once more from this share of"
             " optimizer.lr; 0, or without a teacher: once in all")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluation:
    """How a model is tested, during training and by evaluate.py."""

    every: Count = key(2000, "steps between evaluations")
    mode: Literal["whole", "sliding"] = key("whole", "the image at once, or windows of it")
    short_side: NonNegativeInt = key(512, "the image is resized to it first, pixels; 0 = original size")
    long_side: Count = key(2048, "and never beyond this, pixels")
    rounding: Literal["down", "half_up"] = key("down", "of the longer side; half_up: released code, in no exported processor")
    window: tuple[NonNegativeInt, NonNegativeInt] = key((0, 0), "sliding: height, width, pixels; 0 = the training crop")
    stride: tuple[NonNegativeInt, NonNegativeInt] = key((0, 0), "sliding: down, across, pixels; 0 = 2/3 of the window")
    windows: Literal["shifted", "cut"] = key("shifted", "the last moved back, logits averaged; or (UniMatch) cut, probabilities summed")
    scales: tuple[PositiveFloat, ...] = key((1.0,), "of the resized image; several = probabilities averaged", min_length=1)
    flip: bool = key(False, "average with the mirrored image")
    batch: Count = key(8, "windows, or images of one size, in one forward pass")
    precision: Literal["float32", "bf16", "fp16"] = key(
        "float32", "of evaluate.py and of the last evaluation of a run; those on the way follow run.mixed_precision")
    both_modes: bool = key(True, "the last evaluation scores both modes, where images are larger than a window, and says the better one")
    limit: NonNegativeInt = key(0, "during training evaluate only the first images; 0 = all")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Batch:
    """Images per optimizer step over all processes and accumulation rounds."""

    labeled: Count = key(8, "labelled images")
    unlabeled: Count = key(8, "unlabelled images")
    rounds: Count = key(1, "gradient accumulation: smaller passes, the same batch")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Run:
    """One training run: seed, batch, precision, what is written when."""

    output: str = key("", "folder of the run; empty = runs/<name of the config file>")
    seed: NonNegativeInt = key(0, "of every random draw")
    batch: Batch = Field(default_factory=Batch)
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = key("auto", "auto: that of accelerate launch, else bf16 on GPUs that have it")
    deterministic: bool = key(False, "the same run twice on one GPU ends in the same bytes, at some cost in speed; on a CPU always so")
    compile: bool = key(False, "torch.compile for blocks and decoders of both networks, in half precision not SegFormer's; the first step takes longer, of SegFormer minutes")
    log_every: Count = key(10, "steps between log lines")
    checkpoint_every: Count = key(1000, "steps between checkpoints")
    keep: Count = key(2, "newest checkpoints that are kept")
    trackers: tuple[Tracker, ...] = key((), "those of Accelerate that get numbers and pictures")
    push_to_hub: str = key("", "Hub repository that receives the exported model")
    push_every: NonNegativeInt = key(0, "steps between uploads; 0 = at the end only")


@dataclasses.dataclass(frozen=True, kw_only=True)  # not pydantic's, which would wrap the ConfigError of __post_init__
class Config:
    """The sections of a config file; a key that is left out has the paper's setting."""

    __pydantic_config__ = STRICT

    data: Data = dataclasses.field(default_factory=Data)
    model: Model = dataclasses.field(default_factory=Model)
    method: Method = dataclasses.field(default_factory=Method)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    run: Run = dataclasses.field(default_factory=Run)

    def __post_init__(self) -> None:
        check_consistency(self)

    @property
    def restart_at(self) -> int:
        """The step at which the unlabelled images come in and rate and optimizer begin anew; 0 = they do not."""
        return self.method.burn_in if self.schedule.restart and self.method.teacher != "none" else 0


VALIDATOR = TypeAdapter(Config)


def check_consistency(config: Config) -> None:
    """Rules that hold between fields and need neither data nor a network."""
    data, method, evaluation, batch = config.data, config.method, config.evaluation, config.run.batch
    if data.resize[0] < data.resize[1]:
        raise ConfigError(f"data.resize is {list(data.resize)}; write the longest side first, then the shortest")
    if data.ratio[0] > data.ratio[1]:
        raise ConfigError(f"data.ratio is {list(data.ratio)}; write the smaller number first")
    if data.levels[0] > data.levels[1]:
        raise ConfigError(f"data.levels is {list(data.levels)}; write the value that becomes black first, then the white one")
    if method.class_weights and not any(method.class_weights):
        raise ConfigError(f"method.class_weights is {list(method.class_weights)}; write at least one number above 0")
    if config.model.low_rank and config.model.freeze < 0:
        found = f"model.low_rank = {config.model.low_rank} adds adapters to an encoder of which model.freeze = -1 trains nothing"
        raise ConfigError(f"{found}; set model.freeze=0, or model.low_rank=0")
    if data.classes and data.classes_file:
        raise ConfigError("data.classes and data.classes_file are both given; keep one of them")
    window = [side or crop for side, crop in zip(evaluation.window, data.crop)]
    if evaluation.mode == "sliding" and any(stride > side for stride, side in zip(evaluation.stride, window)):
        found = f"evaluation.stride is {list(evaluation.stride)} for windows of {window} pixels, so pixels between them would be missed"
        raise ConfigError(f"{found}; take a stride of at most the window, or set evaluation.window (0: the training crop, data.crop)")
    if config.schedule.restart and method.teacher != "none" and not 0 < method.burn_in < config.schedule.steps:
        raise ConfigError(
            f"schedule.restart = {config.schedule.restart:g} begins after the steps of method.burn_in, which is {method.burn_in} of"
            f" {config.schedule.steps}; set a method.burn_in between, or schedule.restart=0"
        )
    if method.teacher != "none" and method.burn_in >= config.schedule.steps:
        found = f"method.burn_in = {method.burn_in} leaves none of the schedule.steps = {config.schedule.steps} for the unlabelled images"
        raise ConfigError(f"{found}; set a smaller method.burn_in (0: none), or method.teacher=none to train on the labels alone")
    check_algorithm(method, batch)
    if method.mix_from == "second_batch" and method.mix not in ("none", "cutmix", "cutmix_small", "classmix", "classmix_half"):
        raise ConfigError(f"method.mix = {method.mix!r} takes nothing from a second batch; set method.mix_from=group")
    if method.mixes_groups and method.mix_group == 1:
        raise ConfigError("method.mix_group = 1 gives every image to itself; set it to 2 or more, or method.mix=none")
    if method.mixes_groups and batch.unlabeled % method.mix_group:
        found = f"run.batch.unlabeled = {batch.unlabeled} is not made of whole mix groups of {method.mix_group}"
        raise ConfigError(f"{found}; use {nearest_multiples(batch.unlabeled, method.mix_group)}, or change method.mix_group")
    groups = batch.unlabeled // method.mix_group
    if method.mixes_groups and method.mix == "adaptive_cutmix" and batch.labeled % groups:
        found = f"method.mix = 'adaptive_cutmix' parts run.batch.labeled = {batch.labeled} among {groups} mix groups"
        raise ConfigError(f"{found}; use {nearest_multiples(batch.labeled, groups)}")
    if method.complementary_dropout and method.strong_views != 2:
        found = f"method.complementary_dropout parts the channels between two strong views, and method.strong_views = {method.strong_views}"
        raise ConfigError(f"{found}; set method.strong_views=2, or method.complementary_dropout=false")
    if method.regularizer != "none" and method.regularizer_on == "pasa" and method.pasa == "none":
        found = "method.regularizer_on = 'pasa' names a student pass that method.pasa = 'none' leaves out"
        raise ConfigError(f"{found}; set method.regularizer_on=both, or method.regularizer=none")


def check_algorithm(method: Method, batch: Batch) -> None:
    """A step function of its own refuses what it has no use for."""
    if method.algorithm == "consistency":
        return
    found, mixes = f"method.algorithm = {method.algorithm!r}", ALGORITHM_MIXES[method.algorithm]
    for name, value in LEFT_OUT.items():
        if getattr(method, name) != value:
            repair = f"set method.{name}={json.dumps(value).strip(chr(34))}, as configs/methods/{method.algorithm}.json does"
            raise ConfigError(f"{found} knows no method.{name} = {getattr(method, name)!r}; {repair}")
    if method.mix not in mixes:
        raise ConfigError(f"{found} knows no method.mix = {method.mix!r}; one of {', '.join(mixes)}")
    if method.algorithm in NEED_WHOLE_STEP and batch.rounds > 1:
        found += f" compares the pixels of a whole step, which run.batch.rounds = {batch.rounds} takes apart"
        raise ConfigError(f"{found}; set run.batch.rounds=1, and more processes or smaller batches where memory is short")


def share_of_process(config: Config, processes: int) -> tuple[int, int]:
    """Labelled and unlabelled images of one process in one accumulation round, or a `ConfigError`."""
    batch, method = config.run.batch, config.method
    parts = processes * batch.rounds
    over = f"over {processes} processes" + (f" of {batch.rounds} rounds each" if batch.rounds > 1 else "")
    for key, images in (("labeled", batch.labeled), ("unlabeled", batch.unlabeled)):
        if images % parts:
            raise ConfigError(f"run.batch.{key} = {images} cannot be divided {over}; use {nearest_multiples(images, parts)}")
    group = method.mix_group if method.keeps_groups_whole else 1
    if (batch.unlabeled // parts) % group:
        found = f"run.batch.unlabeled = {batch.unlabeled} {over} leaves {batch.unlabeled // parts} images each"
        repair = f"use {nearest_multiples(batch.unlabeled, parts * group)}, fewer processes or rounds, or a smaller method.mix_group"
        raise ConfigError(f"{found}, which is not made of whole mix groups of {group}; {repair}")
    return batch.labeled // parts, batch.unlabeled // parts


def nearest_multiples(value: int, step: int) -> str:
    """'6 or 9': the multiples of `step` just below and above `value`."""
    below = value // step * step
    return f"{below} or {below + step}" if below else f"{below + step}"


def load(paths: str | Path | Sequence[str | Path], overrides: Sequence[str] = ()) -> Config:
    """Reads JSON config files, the later over the earlier ones, and applies `section.key=value` overrides.

    The value of an override is JSON; anything else is taken as a string. Whatever is wrong is a `ConfigError`.
    """
    tree: dict[str, Any] = {}
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        tree = merged(tree, read_tree(Path(path)))
    for override in overrides:
        set_override(tree, override)
    return from_dict(tree)


def read_tree(path: Path) -> dict[str, Any]:
    """A config file as nested dicts."""
    if not path.exists():
        others = "those of the repository are in configs/ of a clone, and `s4former new-config` writes one"
        raise ConfigError(f"there is no config file {path}; {similar_path(path) or others}")
    try:
        tree = json.loads(read_text(path))
    except DataError as error:
        raise ConfigError(str(error)) from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {tree!r}; it must hold sections, like {{\"data\": {{...}}}}")
    tree.pop("$schema", None)  # for editors
    return without_notes(tree)


def without_notes(tree: Any, place: str = "") -> Any:
    """A tree without its notes: in a section there may be "KEY.note" beside KEY, a sentence on why the value is what it is."""
    if place in FREE_MAPPINGS or not isinstance(tree, dict):
        return tree
    notes = [name for name in tree if place and name.endswith(NOTE) and name.removesuffix(NOTE) in tree]
    for name in notes:
        if not isinstance(tree[name], str):
            raise ConfigError(f"{place}.{name} is {tree[name]!r}; a note must be a string")
    return {name: without_notes(value, f"{place}.{name}".lstrip(".")) for name, value in tree.items() if name not in notes}


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two trees as one; where both have a section its keys are merged, elsewhere the one above wins.

    A mapping that is a value, such as data.id_map, is merged key by key too.
    """
    both = {key: merged(below[key], value) for key, value in above.items()
            if isinstance(value, dict) and isinstance(below.get(key), dict)}  # fmt: skip
    return {**below, **above, **both}


def set_override(tree: dict[str, Any], override: str) -> None:
    """Writes one `section.key=value` into a tree of dicts."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"cannot read the argument {override!r}; write section.key=value, for example run.seed=1")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"cannot set {key}: {section} is not a section")
    tree[name] = value


def from_dict(tree: dict[str, Any]) -> Config:
    """Builds a `Config` from nested dicts; the preset's choices come first, explicit keys win over them."""
    tree = without_taken_out(tree)
    sections = {name: section for name, section in tree.items() if isinstance(section, dict)}
    below = {"method": PRESETS.get(str(sections.get("method", {}).get("preset", "paper")), {})}
    if sections.get("optimizer", {}).get("name") == "adamw":
        below["schedule"] = {"floor": 0.0}  # the paper's is that of SGD, and above usual rates of AdamW
    tree = merged(below, tree)
    try:
        return VALIDATOR.validate_json(json.dumps(tree))  # JSON, since strict Python input takes no list for a tuple
    except ValidationError as error:
        first = error.errors()[0]
        raise (first["ctx"]["error"] if first["type"] == "value_error" else ConfigError(describe(first))) from None


def without_taken_out(tree: dict[str, Any], even_in_use: bool = False) -> dict[str, Any]:
    """A tree without the keys of older versions that had no effect; `even_in_use`: nor those that had, for a model that is trained."""
    for key, unused in TAKEN_OUT.items():
        section, _, name = key.partition(".")
        own = tree.get(section)
        if isinstance(own, dict) and name in own and (even_in_use or own[name] == unused):
            tree = {**tree, section: {other: value for other, value in own.items() if other != name}}
    return tree


def to_dict(config: Any) -> dict[str, Any]:
    """The resolved config, or a section of it, as plain JSON values; `from_dict` of it gives the same config back."""
    return to_jsonable_python(config)


def flatten(tree: dict[str, Any], prefix: str = "", separator: str = ".") -> dict[str, Any]:
    """Nested sections as one level of full keys: {"run": {"seed": 1}} is {"run.seed": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, name + separator, separator) if isinstance(value, dict) else {name: value}
    return flat


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a config file, with which editors complete and explain its keys: what configs/schema.json holds."""
    schema = VALIDATOR.json_schema()
    for section in schema["$defs"].values():  # a note stands beside its key, see `without_notes`
        keys = list(section["properties"])
        section["patternProperties"] = {f"^({'|'.join(keys)})\\{NOTE}$": {"type": "string", "description": "why the value is what it is"}}
        section["dependentRequired"] = {key + NOTE: [key] for key in keys}
    reference = {"$schema": {"type": "string", "description": "where this schema is, for editors"}}
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, "properties": reference | schema["properties"]}


def help_config(section: str = "") -> str:
    """Every key, or those of one section, with its default, range or choices, and meaning, as wide as the terminal."""
    schema, defaults = VALIDATOR.json_schema(), to_dict(Config())
    entries = [entry for name in defaults for entry in describe_keys(schema["properties"][name], schema, defaults[name], name)]
    shown = [(head, meaning) for name, head, meaning in entries if f"{name}.".startswith(f"{section}." if section else "")]
    if not shown:
        close = difflib.get_close_matches(section, [name for name, *_ in entries], n=1)
        raise ConfigError(f"the config has no section {section}; use {', '.join(close or defaults)}")
    width = min(shutil.get_terminal_size().columns, 120)
    lines = [text for head, meaning in shown for text in (head, f"    {meaning}")]
    return "\n".join(textwrap.fill(text, width, subsequent_indent="    ") for text in lines)


def describe_keys(spec: dict[str, Any], schema: dict[str, Any], default: Any, name: str) -> Iterator[tuple[str, str, str]]:
    """The name, the line 'name = default (range or choices)' and the meaning of a key, or of a section and all its keys."""
    if "$ref" in spec:
        section = schema["$defs"][spec["$ref"].rpartition("/")[2]]
        yield name, name, section["description"]
        for key, value in default.items():
            yield from describe_keys(section["properties"][key], schema, value, f"{name}.{key}")
        return
    entry = (spec.get("prefixItems") or [spec.get("items", spec)])[0]
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    rules = [f"{word} {entry[limit]:g}" for limit, word in words.items() if limit in entry]
    rules += ["one of " + ", ".join(spec["enum"])] if "enum" in spec else []
    yield name, f"{name} = {json.dumps(default)}" + (f" ({', '.join(rules)})" if rules else ""), spec["description"]


# What pydantic calls a mistake -> the rule in our words; {} takes the numbers and choices of its context.
RULES = {
    "bool_type": "it must be true or false",
    "int_type": "it must be a whole number",
    "float_type": "it must be a number",
    "string_type": "it must be a string",
    "tuple_type": "it must be a list, like [...]",
    "dict_type": 'it must be a mapping, like {{"key": value}}',
    "dataclass_type": "it must be a section, like {{...}}",
    "literal_error": "one of {expected}",
    "finite_number": "it must be a finite number",
    "string_pattern_mismatch": 'write colours as "#rrggbb", such as "#804080"',
    "greater_than": "it must be above {gt:g}",
    "greater_than_equal": "it must be at least {ge:g}",
    "less_than": "it must be below {lt:g}",
    "less_than_equal": "it must be at most {le:g}",
    "missing": "it must have 2 entries",  # as every list of a fixed length here
    "too_long": "it must have {max_length} entries",
    "too_short": "it must have at least {min_length} entry",
}


def describe(error: ErrorDetails) -> str:
    """One mistake as a sentence: the key by its full path, the value found, the rule or the repair."""
    kind, place = error["type"], error["loc"]
    if kind == "unexpected_keyword_argument" and ".".join(place) in TAKEN_OUT:
        return f"{'.'.join(place)} = {json.dumps(error['input'])} is of an older version; leave it out (docs/measured.md says why it went)"
    if kind == "unexpected_keyword_argument":
        known = functools.reduce(dict.__getitem__, place[:-1], to_dict(Config()))
        close = difflib.get_close_matches(place[-1], known, n=1)
        others = f"{'.'.join(place[:-1]) or 'the config'} has {', '.join(known)}"
        return f"unknown key {'.'.join(place)}; " + (f"did you mean {'.'.join([*place[:-1], *close])}?" if close else others)
    verb = "has the key" if place[-1:] == ("[key]",) else "is"
    place = place[:-2] if verb != "is" else place[:-1] if kind == "missing" else place  # missing: an entry of a list
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
    rule = RULES[kind].format(**error.get("ctx", {})) if kind in RULES else error["msg"]
    rule = rule.replace(" or ", ", ") if kind == "literal_error" else rule
    return f"{key or 'the config'} {verb} {error['input']!r}; {rule}"
