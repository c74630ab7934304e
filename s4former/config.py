"""The configuration of a run: frozen, typed, strict.

The defaults are the paper's setting for PASCAL VOC 2012 with SETR over DeiT-B, so a config file holds only what
differs. This is the only room that parses configs; everybody else receives the dataclasses.

    config = load("configs/demo.json", ["schedule.steps=20"])
"""

import dataclasses
import difflib
import json
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Sequence

from .errors import ConfigError

# Raised by every change of the code after which the same config gives another digit; part of a run's key in an archive.
NUMERICS = 1
IGNORE_INDEX = 255  # inside the package; other ids in mask files are mapped to it when they are read


def number(default: float, *, least: float | None = None, above: float | None = None, most: float | None = None) -> Any:
    """A numeric field with its range: `least` and `most` inclusive, `above` exclusive."""
    return field(default=default, metadata={"least": least, "above": above, "most": most})


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """The drawn world of the demo: how many scenes, how large, from which seed."""

    labeled: int = number(16, least=1)  # scenes with a mask
    unlabeled: int = number(1000, least=1)  # further scenes, whose masks are never drawn
    validation: int = number(100, least=1)  # further scenes, for evaluation only
    height: int = number(96, least=32)  # pixels
    width: int = number(128, least=32)  # pixels
    seed: int = number(0, least=0)  # which world


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the images are and how a training crop is cut from one."""

    source: Literal["shapes", "folder", "voc", "cityscapes", "coco", "hub"] = "voc"
    root: str = ""  # the data folder; for `hub` the id of a Hub dataset
    labeled: str = ""  # list file or subfolder of the labelled training images
    unlabeled: str = ""  # the same for the unlabelled pool; empty = the training images that are not labelled
    validation: str = ""  # the same for evaluation
    classes: tuple[str, ...] = ()  # class names, id 0 first; empty = those of the source
    classes_file: str = ""  # or a JSON file with them: a list of names, or {"0": "name", ...}
    ignore_index: int = number(255, least=0, most=65535)  # the id in the masks that counts as no label
    palette: dict[str, int] = field(default_factory=dict)  # masks of colours: "#rrggbb" -> the id it stands for
    id_map: dict[str, int] = field(default_factory=dict)  # id in the masks -> class id (or ignore_index)
    levels: tuple[float, float] = (0.0, 0.0)  # images of more than 8 bits: the values that become black and white
    crop: tuple[int, int] = (512, 512)  # height, width of a training crop, pixels
    resize: tuple[int, int] = (2048, 512)  # longest and shortest side an image is fitted into before the ratio
    ratio: tuple[float, float] = (0.5, 2.0)  # range of the random scale on top of `resize`
    # labelled images that show a class in fewer than this share of them come up more often, sqrt(this / share) times
    # (repeat factor sampling of LVIS, Gupta et al. 2019), rounded; 0 = every image equally often
    repeat_rare: float = number(0.0, least=0, most=1)
    max_class_share: float = number(0.75, above=0, most=1)  # of a labelled crop; unlabelled crops are plain random
    flip: float = number(0.5, least=0, most=1)  # probability
    workers: int = number(4, least=0)  # loader processes per training process
    # decode unlabelled JPEGs at 1/2, 1/4 or 1/8 of their size where no crop needs more; changes pixels by a few grey levels
    draft: bool = False
    cache: str = ""  # folder that keeps training images and masks decoded, as they are: 4 bytes a pixel; empty = decode every time
    shapes: Shapes = Shapes()


@dataclass(frozen=True, kw_only=True)
class Model:
    """The network: an encoder of transformers (or a ResNet of timm) and a decoder."""

    # a plain ViT under SETR-PUP, SegFormer, DINOv2 or DINOv3 under DPT or UperNet, a ResNet under DeepLabV3+
    architecture: Literal["setr", "segformer", "dpt", "upernet", "deeplabv3plus"] = "setr"
    # a size (deit-tiny .. resnet101), a Hub id, a folder, or a timm-style .pth/.safetensors (ViT, ResNet)
    encoder: str = "deit-base"
    # a whole segmentation network to go on from: a folder or Hub id; its encoder and head take the place of the keys above
    # and below, and only the architecture has to be said
    start_from: str = ""
    freeze: int = number(0, least=-1)  # first blocks of the encoder that stay as they are, embeddings included; -1 = all
    pretrained: bool = True  # false: the same encoder with random weights, nothing downloaded
    # SETR, DPT, UperNet: blocks whose outputs feed the heads (SETR: the last one the main head); empty = by depth
    out_indices: tuple[int, ...] = ()
    decoder_channels: int = number(256, least=1)  # channels of the heads; not SegFormer
    decoder_stages: int = number(0, least=0)  # SETR: x2 up-sampling stages; 0 = up to the input size
    # overrides of the transformers config (dropout, ...); of a ResNet: further arguments of timm
    encoder_config: dict[str, Any] = field(default_factory=dict)
    activation_checkpointing: bool = False  # trade time for memory in every encoder block


@dataclass(frozen=True, kw_only=True)
class Method:
    """Sup-Only, Mean Teacher, S4Former and its ablations: rows of one table."""

    preset: Literal["paper", "official"] = "paper"  # `official`: the choices of the released code, see PRESETS
    # who gives the pseudo labels: the moving average; the student itself, in eval mode or as it trains; nobody (Sup-Only)
    teacher: Literal["ema", "student", "student_in_training", "none"] = "ema"
    threshold: float = number(0.95, least=0, most=1)  # a pixel is a pseudo label if its confidence is above
    # for every class the same, or lower where the teacher is less sure of a class (after FreeMatch; see thresholds.py)
    thresholds: Literal["fixed", "per_class"] = "fixed"
    strong_views: int = number(1, least=1)  # of an unlabelled image, each with its own colours, mix and order
    # the colours of a strong view: photometric distortion; jitter, grey and blur (UniMatch); 1 to 3 of 11 changes (AugSeg)
    strong_colour: Literal["photometric", "jitter", "random_intensity"] = "photometric"
    weak_colour: bool = False  # photometric distortion on the teacher's view as well
    labeled_colour: bool = True  # photometric distortion on the labelled images
    # what a strong view receives from other images; "cutmix_small": UniMatch's boxes; "classmix_half": half of the classes
    # stay, as in ClassMix's own paper, where "classmix" keeps one more, as the released code does
    mix: Literal[
        "none", "cutmix", "cutmix_small", "cutout", "classmix", "classmix_half", "mixunmix", "adaptive_cutmix"
    ] = "cutmix"
    # one draw for the whole batch; cutmix_small: one per image; mixunmix and adaptive_cutmix always mix
    mix_probability: float = number(0.5, least=0, most=1)
    # where the content comes from: the next image of a group, or an image of a second unlabelled batch (UniMatch)
    mix_from: Literal["group", "second_batch"] = "group"
    mix_group: int = number(4, least=1)  # consecutive images of the global batch that exchange content
    patch_shuffle: bool = True  # shuffle blocks of the strong view, restore the features before the decoder
    shuffle_probability: float = number(0.5, least=0, most=1)  # one draw per image
    block: int = number(8, least=1)  # side of a PatchShuffle block in tokens of the coarsest grid the decoder uses
    # the attention bias of the extra student pass; none = no such pass
    pasa: Literal["none", "main", "reverse1", "reverse2", "product", "all_rows", "rand"] = "main"
    pasa_alpha: float = number(5.0, least=0)  # scale of the bias
    pasa_confidence: Literal["probability", "mask"] = "probability"  # what is pooled over a patch
    pasa_view: Literal["strong", "mixed"] = "strong"  # what that pass sees: the strong view as it is, or as the mix left it
    pasa_stages: Literal["last", "all"] = "last"  # SegFormer: only stage 4, or every stage
    feature_dropout: float = number(0.0, least=0, most=1)  # share of channels dropped in another student pass; 0 = none
    feature_view: Literal["strong", "weak"] = "strong"  # which colours that pass sees
    # beside the cross-entropy on pseudo labels: negative class ranking, all classes, soft cross-entropy
    regularizer: Literal["none", "ncr", "all_cr", "soft", "soft_labels"] = "ncr"
    # of ncr and all_cr: squared distance, its root (released code), divergence
    regularizer_norm: Literal["l2sq", "l2", "kl"] = "l2sq"
    regularizer_weight: float = number(1.0, least=0)  # beside the cross-entropy of the same branch
    regularizer_on: Literal["both", "strong", "pasa"] = "both"  # the student branches it is applied to
    regularizer_mixed_teacher: bool = True  # mix the teacher's logits with the same boxes as the image
    # what a loss is divided by: all pixels, or (UniMatch) those of labels and of no padding, over all processes of a round
    normalizer: Literal["all", "valid"] = "all"
    # which views move the running statistics of the decoder's batch norms, by which the teacher reads
    running_statistics: Literal["all", "labeled"] = "all"
    class_weights: tuple[float, ...] = ()  # of the loss on labels, one for each class; empty = all 1
    unsupervised_weight: float = number(1.0, least=0)  # of the mean over the student branches
    auxiliary_weight: float = number(0.4, least=0)  # of each auxiliary head of SETR; 0 = no auxiliary heads
    burn_in: int = number(0, least=0)  # first steps on labels only
    ema: float = number(0.999, least=0, most=1)  # decay of the teacher
    ema_warm_up: bool = False  # min(1 - 1/(t+1), ema): lets a short run have a teacher that follows
    ema_copies: int = number(0, least=0)  # first steps at which the teacher becomes the student (AugSeg: its first epoch)
    ema_order: Literal["after", "before"] = "after"  # the optimizer step

    @property
    def mixes_groups(self) -> bool:
        """Whether images take content from others of their group."""
        return self.teacher != "none" and self.mix not in ("none", "cutout") and self.mix_from == "group"

    @property
    def keeps_groups_whole(self) -> bool:
        """Whether all images of a group have to lie in one process, instead of it borrowing those it takes content from.

        Tiles are unmixed on the features of all of them; adaptive CutMix permutes all of them, and pastes from what they
        were given themselves; a student in training mode reads only what it trains on.
        """
        return self.mixes_groups and (self.mix in ("mixunmix", "adaptive_cutmix") or self.teacher == "student_in_training")

    @property
    def title(self) -> str:
        """The method's name in tables: that of its authors where it has one, else the base and the parts that are on."""
        if self.teacher == "none":
            return "Sup-Only"
        parts = [name for name, on in (("PatchShuffle", self.patch_shuffle), ("PASA", self.pasa != "none")) if on]
        parts += [self.regularizer.upper()] if self.regularizer != "none" else []
        base = self.base
        if base in ("S4Former-Base", "UniMatch", "AugSeg") and parts == ["PatchShuffle", "PASA", "NCR"]:
            return "S4Former" if base == "S4Former-Base" else f"{base} + S4Former"
        return " + ".join([base, *parts])

    @property
    def base(self) -> str:
        """What the parts are added to."""
        if self.strong_views > 1:
            return "UniMatch"
        if self.mix == "adaptive_cutmix" and self.strong_colour == "random_intensity":
            return "AugSeg"
        mixes = {"none": "", "cutmix": "CutMix", "cutmix_small": "CutMix", "cutout": "CutOut", "classmix": "ClassMix",
                 "classmix_half": "ClassMix", "mixunmix": "Mix/UnMix", "adaptive_cutmix": "Adaptive CutMix"}  # fmt: skip
        if self.teacher != "ema":
            return "FixMatch" if mixes[self.mix] == "CutMix" else f"FixMatch with {mixes[self.mix] or 'no mix'}"
        return "S4Former-Base" if self.mix == "cutmix" else " + ".join(filter(None, ["Mean Teacher", mixes[self.mix]]))


# The choices of the released code that change the method; every one is a field, so either preset can be taken apart.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "official": {
        "pasa_confidence": "mask",
        "regularizer_norm": "l2",
        "regularizer_on": "strong",
        "regularizer_mixed_teacher": False,
        "weak_colour": True,
        "ema_order": "before",
    },
}


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """One optimizer, two groups: the encoder, and everything after it at `head_multiplier` times the rate."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = number(1e-3, above=0)  # of the encoder
    head_multiplier: float = number(10.0, above=0)  # of the decoder and the auxiliary heads
    layer_decay: float = number(1.0, above=0, most=1)  # factor from each encoder block to the one before it; 1 = one rate
    momentum: float = number(0.9, least=0, most=1)  # sgd
    betas: tuple[float, float] = (0.9, 0.999)  # adamw
    weight_decay: float = number(0.0, least=0)  # not on norms, biases and position embeddings
    clip_norm: float = number(0.0, least=0)  # of the whole gradient; 0 = no clipping


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Polynomial decay to a floor, after an optional linear warm-up."""

    steps: int = number(80_000, least=1)  # optimizer steps of the run
    power: float = number(0.9, above=0)
    floor: float = number(1e-4, least=0)  # the same for both groups
    warm_up: int = number(0, least=0)  # steps
    warm_up_ratio: float = number(1e-6, least=0, most=1)  # of the rate at step 0


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a model is tested, during training and by evaluate.py."""

    every: int = number(2000, least=1)  # steps
    mode: Literal["whole", "sliding"] = "whole"
    short_side: int = number(512, least=0)  # the image is resized to it first; 0 = original size
    long_side: int = number(2048, least=1)  # and never beyond this
    window: tuple[int, int] = (0, 0)  # sliding: height, width; 0 = the training crop
    stride: tuple[int, int] = (0, 0)  # sliding: down, across; 0 = two thirds of the window
    # sliding: the last window moved back and logits averaged, or as UniMatch does, cut short and probabilities summed
    windows: Literal["shifted", "cut"] = "shifted"
    scales: tuple[float, ...] = (1.0,)  # of the resized image; several = probabilities averaged
    flip: bool = False  # average with the mirrored image
    batch: int = number(8, least=1)  # windows, or images of one size, in one forward pass
    limit: int = number(0, least=0)  # evaluate only the first images during training; 0 = all


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images per optimizer step over all processes and accumulation rounds."""

    labeled: int = number(8, least=1)
    unlabeled: int = number(8, least=1)
    rounds: int = number(1, least=1)  # gradient accumulation: smaller passes, the same batch


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run: seed, batch, precision, what is written when."""

    output: str = ""  # folder of the run; empty = runs/<name of the config file>
    seed: int = number(0, least=0)
    batch: Batch = Batch()
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"  # auto: bf16 on a GPU that has it
    compile: bool = False  # torch.compile for the encoders of student and teacher; the first step then takes minutes
    log_every: int = number(10, least=1)  # steps
    checkpoint_every: int = number(1000, least=1)  # steps
    keep: int = number(2, least=1)  # newest checkpoints
    trackers: tuple[str, ...] = ()  # any that Accelerate knows: tensorboard, wandb, ...
    push_to_hub: str = ""  # Hub repository that receives the exported model
    push_every: int = number(0, least=0)  # steps; 0 = at the end only


@dataclass(frozen=True, kw_only=True)
class Config:
    data: Data = Data()
    model: Model = Model()
    method: Method = Method()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    evaluation: Evaluation = Evaluation()
    run: Run = Run()

    def __post_init__(self) -> None:
        check_together(self)


def check_together(config: Config) -> None:
    """Rules that hold between fields and need neither data nor a network."""
    data, method, evaluation, batch = config.data, config.method, config.evaluation, config.run.batch
    for key, pair in (("data.crop", data.crop), ("data.resize", data.resize)):
        if min(pair) < 1:
            raise ConfigError(f"{key} is {list(pair)}; both numbers must be at least 1")
    if data.resize[0] < data.resize[1]:
        raise ConfigError(f"data.resize is {list(data.resize)}; write the longest side first, then the shortest")
    if not 0 < data.ratio[0] <= data.ratio[1]:
        raise ConfigError(f"data.ratio is {list(data.ratio)}; write a range above 0, smaller number first")
    if data.levels[0] > data.levels[1]:
        raise ConfigError(f"data.levels is {list(data.levels)}; write the value that becomes black first, then the white one")
    if method.class_weights and (min(method.class_weights) < 0 or not any(method.class_weights)):
        raise ConfigError(f"method.class_weights is {list(method.class_weights)}; write numbers of at least 0, not all 0")
    for colour in data.palette:
        if not re.fullmatch("#[0-9a-fA-F]{6}", colour):
            raise ConfigError(f'data.palette has the key {colour!r}; write colours as "#rrggbb", such as "#804080"')
    if data.classes and data.classes_file:
        raise ConfigError("data.classes and data.classes_file are both given; keep one of them")
    if not evaluation.scales or min(evaluation.scales) <= 0:
        raise ConfigError(f"evaluation.scales is {list(evaluation.scales)}; write one or more factors above 0")
    if min(evaluation.window) < 0 or min(evaluation.stride) < 0:
        raise ConfigError("evaluation.window and evaluation.stride cannot be negative; 0 takes the default")
    window = [side or crop for side, crop in zip(evaluation.window, data.crop)]
    if evaluation.mode == "sliding" and any(stride > side for stride, side in zip(evaluation.stride, window)):
        raise ConfigError(
            f"evaluation.stride is {list(evaluation.stride)} for windows of {window} pixels, so pixels between them would be"
            " missed; take a stride of at most the window, or set evaluation.window (0: the training crop, data.crop)"
        )
    if method.teacher != "none" and method.burn_in >= config.schedule.steps:
        raise ConfigError(
            f"method.burn_in = {method.burn_in} leaves none of the schedule.steps = {config.schedule.steps} for the unlabelled"
            " images; set a smaller method.burn_in (0: none), or method.teacher=none to train on the labels alone"
        )
    if method.mix_from == "second_batch" and method.mix not in ("none", "cutmix", "cutmix_small", "classmix", "classmix_half"):
        raise ConfigError(f"method.mix = {method.mix!r} takes nothing from a second batch; set method.mix_from=group")
    if method.mixes_groups and batch.unlabeled % method.mix_group:
        raise ConfigError(
            f"run.batch.unlabeled = {batch.unlabeled} is not made of whole mix groups of {method.mix_group};"
            f" use {nearest_multiples(batch.unlabeled, method.mix_group)}, or change method.mix_group"
        )
    groups = batch.unlabeled // method.mix_group
    if method.mixes_groups and method.mix == "adaptive_cutmix" and batch.labeled % groups:
        raise ConfigError(
            f"method.mix = 'adaptive_cutmix' gives each of the {groups} mix groups labelled images of its own, and"
            f" run.batch.labeled = {batch.labeled} cannot be shared by them; use {nearest_multiples(batch.labeled, groups)}"
        )
    if method.regularizer != "none" and method.regularizer_on == "pasa" and method.pasa == "none":
        raise ConfigError(
            "method.regularizer_on = 'pasa' names a student pass that method.pasa = 'none' leaves out; set"
            " method.regularizer_on=both, or method.regularizer=none"
        )


def share_of_process(config: Config, processes: int) -> tuple[int, int]:
    """Labelled and unlabelled images of one process in one accumulation round, or a `ConfigError`."""
    batch, method = config.run.batch, config.method
    parts = processes * batch.rounds
    over = f"over {processes} processes" + (f" of {batch.rounds} rounds each" if batch.rounds > 1 else "")
    for key, images in (("labeled", batch.labeled), ("unlabeled", batch.unlabeled)):
        if images % parts:
            raise ConfigError(
                f"run.batch.{key} = {images} cannot be divided {over}; use {nearest_multiples(images, parts)}"
            )
    group = method.mix_group if method.keeps_groups_whole else 1
    if (batch.unlabeled // parts) % group:
        raise ConfigError(
            f"run.batch.unlabeled = {batch.unlabeled} {over} leaves {batch.unlabeled // parts} images each, which is"
            f" not made of whole mix groups of {group}; use {nearest_multiples(batch.unlabeled, parts * group)},"
            " fewer processes or rounds, or a smaller method.mix_group"
        )
    return batch.labeled // parts, batch.unlabeled // parts


def nearest_multiples(value: int, step: int) -> str:
    """'6 or 9': the multiples of `step` just below and above `value`."""
    below = value // step * step
    return f"{below} or {below + step}" if below else f"{below + step}"


def load(paths: str | Path | Sequence[str | Path], overrides: Sequence[str] = ()) -> Config:
    """Reads JSON config files, the later over the earlier ones, and applies `section.key=value` overrides.

    Args:
        paths: one file or several, each with any of the sections of `Config`.
        overrides: as given on the command line; values are JSON, anything else is taken as a string.

    Raises:
        ConfigError: for a missing or broken file, an unknown key, a wrong type, or a value out of range.
    """
    tree: dict[str, Any] = {}
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        tree = merged(tree, read_tree(Path(path)))
    for override in overrides:
        set_override(tree, override)
    return from_dict(tree)


def read_tree(path: Path) -> dict[str, Any]:
    """A config file as nested dicts."""
    try:
        tree = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"there is no config file {path}; the ones that come along are in configs/") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {tree!r}; it must hold sections, like {{\"data\": {{...}}}}")
    return tree


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
    method = tree.get("method", {})
    if isinstance(method, dict):
        preset = PRESETS.get(str(method.get("preset", "paper")), {})
        tree = {**tree, "method": {**preset, **method}}
    return build(Config, tree, "")


def to_dict(config: Any) -> dict[str, Any]:
    """The resolved config as plain JSON values; `from_dict` of it gives the same config back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def build(kind: type, tree: Any, path: str) -> Any:
    """One dataclass from one dict, recursively; `path` is the full name of the section, for messages."""
    if not isinstance(tree, dict):
        raise ConfigError(f"{path or 'the config'} is {tree!r}; it must be a section, like {{...}}")
    hints = typing.get_type_hints(kind)
    known = {item.name: item for item in dataclasses.fields(kind)}
    values = {}
    for name, value in tree.items():
        full = f"{path}.{name}" if path else name
        if name not in known:
            raise ConfigError(f"unknown key {full}; {suggestion(name, known, path)}")
        values[name] = convert(hints[name], value, full, known[name].metadata)
    return kind(**values)


def suggestion(name: str, known: dict[str, Any], path: str) -> str:
    """The repair for an unknown key: the closest name, or all of them."""
    prefix = f"{path}." if path else ""
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    return f"{path or 'the config'} has " + ", ".join(known)


def convert(hint: Any, value: Any, path: str, limits: typing.Mapping[str, Any]) -> Any:
    """`value` as the type `hint`, or a `ConfigError` that names `path`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, path)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{path} is {value!r}; one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        return convert_tuple(arguments, value, path)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{path} is {value!r}; it must be a mapping, like {{\"key\": value}}")
        return {str(key): convert(arguments[1], item, f"{path}.{key}", {}) for key, item in value.items()}
    if hint is Any or isinstance(hint, types.UnionType):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not hint:
        wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}[hint]
        raise ConfigError(f"{path} is {value!r}; it must be {wanted}")
    check_range(value, path, limits)
    return value


def convert_tuple(arguments: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{path} is {value!r}; it must be a list, like [...]")
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise ConfigError(f"{path} is {list(value)}; it must have {len(arguments)} entries")
    return tuple(convert(hint, item, f"{path}[{i}]", {}) for i, (hint, item) in enumerate(zip(arguments, value)))


def check_range(value: Any, path: str, limits: typing.Mapping[str, Any]) -> None:
    least, above, most = limits.get("least"), limits.get("above"), limits.get("most")
    if least is not None and not value >= least:
        raise ConfigError(f"{path} is {value}; it must be at least {least}")
    if above is not None and not value > above:
        raise ConfigError(f"{path} is {value}; it must be above {above}")
    if most is not None and not value <= most:
        raise ConfigError(f"{path} is {value}; it must be at most {most}")
