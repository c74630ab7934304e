"""What `s4former benchmark gpu` measures: the parts, each with a config of its own and a share of the time."""

from dataclasses import dataclass

from ..config import Config, load

SQUARE = "data.crop=[{0},{0}] data.resize=[{1},{0}] method.block={2} evaluation.window=[{0},{0}]"
SMALL = "run.batch.labeled=2 run.batch.unlabeled=2 method.mix_group=2"
STEPS = {  # name -> the config, its size in pixels and its grid of blocks; and the encoder and size of a rehearsal
    "setr": ("model.encoder=deit-base", (512, 4), "model.encoder=deit-tiny", (64, 2)),
    "setr_large": ("model.encoder=vit-large", (512, 4), "model.encoder=deit-tiny", (64, 2)),
    "segformer": (
        "model.architecture=segformer model.encoder=mit-b4 optimizer.name=adamw optimizer.lr=6e-5 schedule.floor=0",
        (768, 4), "model.encoder=mit-b0", (64, 2),
    ),
    "dpt": (
        "model.architecture=dpt model.encoder=dinov2-base model.decoder_channels=128 optimizer.name=adamw optimizer.lr=5e-6"
        " schedule.floor=0", (504, 9), "model.encoder=dinov2-small", (56, 2),
    ),
}  # fmt: skip
UNIMATCH_V2 = (
    "method.strong_views=2 method.complementary_dropout=true method.strong_colour=jitter method.labeled_colour=false"
    " method.mix=cutmix_small method.mix_group=2 method.normalizer=valid method.patch_shuffle=false method.pasa=none"
    " method.regularizer=none"
)


@dataclass(frozen=True)
class Entry:
    """A part over one of STEPS with more overrides. share: of the time; what an entry leaves is the next one's."""

    part: str
    share: float
    step: str = "setr"
    more: str = ""

    def config(self, *, tiny: bool) -> Config:
        model, size, small, small_size = STEPS[self.step]
        side, block = small_size if tiny else size
        words = [model, SQUARE.format(side, 4 * side, block), "run.mixed_precision=bf16"]
        words += [small, SMALL, "model.decoder_channels=16"] if tiny else []
        return load([], " ".join([*words, self.more]).split())


PLAN = {
    "step of SETR": Entry("step", 0.07),
    "step of SETR over ViT-L": Entry("step", 0.08, "setr_large"),
    "step of SegFormer": Entry("step", 0.08, "segformer"),
    "step of DPT over DINOv2": Entry("step", 0.06, "dpt"),  # needs transformers 5.23
    "step of DPT over DINOv2 without PASA": Entry("step", 0.05, "dpt", "method.pasa=none"),
    "kernels of SETR": Entry("kernels", 0.05),
    "agreement": Entry("agreement", 0.1, "setr", f"model.encoder=deit-tiny {SMALL}"),
    "enlargement": Entry("enlargement", 0.03),
    "losses": Entry("losses", 0.04),
    "ema": Entry("ema", 0.02),
    "attention": Entry("attention", 0.1),
    "windows": Entry("windows", 0.06),
    "yardstick over DPT": Entry("yardstick", 0.1, "dpt", UNIMATCH_V2),
    "compiled step of SETR": Entry("compiled", 0.16),
}
