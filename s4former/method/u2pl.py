"""U2PL: pixels that the teacher is unsure of are negatives of the classes that they are surely not.

Wang et al., "Semi-Supervised Semantic Segmentation Using Unreliable Pseudo-Labels", CVPR 2022. The sets of anchors, positives and
negatives are the paper's: the released code asks of a negative that it carries the class as its label, which leaves hardly any,
and takes the anchors and centres of absent classes for those of present ones. Settings are those of its config files.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import IGNORE_INDEX, Method
from ..randomness import torch_generator
from .batch import Batch
from .context import StepContext
from .losses import cross_entropy
from .mixing import MIXES, gather, mix_pseudo
from .pseudo import at_least_float32, count_pseudo, pseudo_label
from .representation import Memory
from .step import supervised_losses
from .student import View

RANKS = (3, 20)  # an unsure pixel is a negative of the classes it ranks from the one to below the other, a labelled one above
LEAST = 0.3  # the probability from which a pixel is an anchor of its class
ANCHORS, NEGATIVES = 256, 50  # anchors of a class in a step, and negatives of each
TEMPERATURE = 0.5
REMEMBERED = 1024  # new negatives of a class in a step; the released code takes all, which replaces its memory within two steps


def train_step(
    student: nn.Module, teacher: nn.Module | None, batch: Batch, method: Method, context: StepContext
) -> dict[str, Tensor]:
    """The loss terms of one step of U2PL: cross-entropy on reliable pseudo labels, and InfoNCE in the representation.

    The teacher labels the weak view, then reads what the student reads, in eval mode (released code: with batch statistics).
    """
    views = [View(batch.labeled, auxiliary=True, represent=True)]
    if teacher is None:  # a distributed wrapper asks for a gradient of the head all the same
        ((labeled, (*auxiliary, own)),) = student(views)
        losses = supervised_losses(labeled, auxiliary, batch, method)
        return losses | {"supervised": losses["supervised"] + 0 * own.sum()}
    with torch.no_grad():
        everywhere = pseudo_label(teacher(batch.weak), batch.valid, method.threshold)
        (strong,) = batch.strong
        size = strong.images.shape[-2:]
        source = MIXES[method.mix].source(strong.mix, everywhere.first(batch.unlabeled), size)
        mixed, target = gather(strong.images, source), mix_pseudo(everywhere, source, logits=False)
        logits, features = teacher.represent(torch.cat([batch.labeled, mixed]))
        unreliable = find_unreliable(logits[len(batch.labeled) :], target.valid, method.unreliable * (1 - context.progress), context)
        reliable = replace(target, label=target.label.masked_fill(unreliable, IGNORE_INDEX))
        grid = features.shape[-2:]
        labels, logits = (torch.cat([pick(batch.labels, grid), pick(reliable.label, grid)]), pick(logits, grid))
        positive, negative = find_pairs(logits, labels, pick(unreliable, grid))
        keys = pixel_keys((*batch.labeled_seeds, *batch.seeds), grid, features.device)
        with torch.autocast(features.device.type, enabled=False):
            remember(teacher.memory, at_least_float32(features), positive, negative, keys, method.prototype_momentum, context)
    views.append(View(mixed, represent=True))

    (labeled, (*auxiliary, own)), (unlabeled, (other,)) = student(views)

    losses = supervised_losses(labeled, auxiliary, batch, method)
    valid, kept = context.average(torch.stack([target.valid.sum(), (reliable.label != IGNORE_INDEX).sum()]).double()).clamp(min=1)
    scale = (reliable.label.numel() / kept * valid / kept).to(losses["supervised"].dtype)  # of the mean over those kept
    losses["consistency_strong"] = scale * cross_entropy(unlabeled, reliable.label)
    with torch.autocast(features.device.type, enabled=False):
        contrast = contrastive_loss(at_least_float32(torch.cat([own, other])), positive, keys, teacher.memory, context)
    losses["contrast_strong"] = method.regularizer_weight * contrast
    return losses | count_pseudo(reliable)


def find_unreliable(logits: Tensor, valid: Tensor, share: float, context: StepContext) -> Tensor:
    """(B, h, w) bool: the `share` of the step's `valid` pixels in which the prediction (B, K, h, w) has the highest entropy."""
    log = at_least_float32(logits).log_softmax(dim=1)
    entropy = -(log.exp() * log).sum(dim=1)
    ordered = context.gather(entropy.masked_fill(~valid, torch.inf)).flatten().sort().values
    last = (ordered.isfinite().sum() - 1).clamp(min=0)
    limit = ordered[(last * (1 - share)).long()]
    return valid & (entropy > limit)


def find_pairs(logits: Tensor, labels: Tensor, unreliable: Tensor) -> tuple[Tensor, Tensor]:
    """Of which classes every pixel is an anchor and a positive, and of which a negative; (K, N h w) bool each.

    logits: (N, K, h, w) of the teacher, labelled images first.    labels: (N, h, w), 255 = none.
    unreliable: (B_u, h, w) bool, of the images that are not labelled.
    """
    labeled, classes = len(labels) - len(unreliable), torch.arange(logits.shape[1], device=labels.device)[:, None, None]
    own = labels[:, None] == classes
    positive = own & (at_least_float32(logits).softmax(dim=1) > LEAST)
    rank = logits.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    first = (labels[:labeled, None] != IGNORE_INDEX) & ~own[:labeled] & (rank[:labeled] < RANKS[0])
    second = unreliable[:, None] & (rank[labeled:] >= RANKS[0]) & (rank[labeled:] < RANKS[1])
    return by_class(positive), by_class(torch.cat([first, second]))


def remember(
    memory: Memory, features: Tensor, positive: Tensor, negative: Tensor, keys: Tensor, momentum: float, context: StepContext
) -> None:
    """Puts the step's negatives into the memory, drawn at random where they are too many, and moves the class centres."""
    flat = by_pixel(features)
    values, index = smallest(keys, negative, min(REMEMBERED, memory.size))
    values, found = context.gather(values.T.contiguous()).T, context.gather(flat[index].transpose(0, 1).contiguous()).transpose(0, 1)
    order = values.argsort(dim=1)[:, : min(REMEMBERED, memory.size)]
    memory.enqueue(found.gather(1, order[..., None].expand(-1, -1, found.shape[-1])), values.gather(1, order).isfinite())
    sums = torch.cat([positive.to(flat.dtype) @ flat, positive.sum(dim=1, keepdim=True).to(flat.dtype)], dim=1)
    sums, count = context.average(sums).split([flat.shape[1], 1], dim=1)
    memory.follow(sums / count.clamp(min=torch.finfo(count.dtype).tiny), count[:, 0] > 0, momentum)


def contrastive_loss(features: Tensor, positive: Tensor, keys: Tensor, memory: Memory, context: StepContext) -> Tensor:
    """InfoNCE of up to ANCHORS pixels of every class, drawn at random among those of all processes; the mean over the classes.

        -log( exp(<z, z+> / T) / (exp(<z, z+> / T) + sum over NEGATIVES z- of exp(<z, z-> / T)) ),   <.,.> the cosine

    Classes without an anchor or without a negative are left out. A process computes the part of its own anchors, times the
    number of processes, over which gradients are averaged.
    """
    values, index = smallest(keys, positive, ANCHORS)
    ordered = context.gather(values.T.contiguous()).T.sort(dim=1).values
    ordered = F.pad(ordered, (0, max(0, ANCHORS - ordered.shape[1])), value=torch.inf)[:, :ANCHORS].contiguous()
    rank = torch.searchsorted(ordered, values.contiguous()).clamp(max=ANCHORS - 1)  # of an anchor among all of its class
    chosen = values.isfinite() & (values <= ordered[:, -1:])
    count, classes = ordered.isfinite().sum(dim=1), len(positive)
    draws = torch.rand(classes, ANCHORS, NEGATIVES, generator=torch_generator(context.seed)).to(features.device)
    anchors = F.normalize(by_pixel(features)[index], dim=-1)
    used = (count > 0) & (memory.filled > 0)
    total = features.new_zeros((), dtype=anchors.dtype)
    for k in range(classes):
        drawn = (draws[k, rank[k]] * memory.filled[k]).long()
        others = F.normalize(memory.features[k, drawn], dim=-1)
        centre = F.normalize(memory.prototypes[k], dim=-1)
        cosines = torch.cat([(anchors[k] @ centre)[:, None], torch.einsum("ad,and->an", anchors[k], others)], dim=1)
        logits = cosines / TEMPERATURE
        terms = (logits.logsumexp(dim=1) - logits[:, 0]) * (chosen[k] & used[k])
        total = total + terms.sum() / count[k].clamp(min=1)
    return context.processes * total / used.sum().clamp(min=1)


# ---- pixels of all images, class by class


def pixel_keys(seeds: tuple[int, ...], size: torch.Size, device: torch.device) -> Tensor:
    """(N h w,) float64: a random number for every pixel, the same in whichever process its image is."""
    numbers = [torch.rand(size, dtype=torch.float64, generator=torch_generator(seed)) for seed in seeds]
    return torch.stack(numbers).flatten().to(device)


def smallest(keys: Tensor, mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The keys and numbers of the pixels of every class (K, P) with the `count` smallest keys; a key is infinite where there are fewer."""
    masked = keys.expand_as(mask).masked_fill(~mask, torch.inf)
    return masked.topk(min(count, mask.shape[1]), dim=1, largest=False)


def by_class(mask: Tensor) -> Tensor:
    """(N, K, h, w) to (K, N h w)."""
    return mask.transpose(0, 1).flatten(1)


def by_pixel(features: Tensor) -> Tensor:
    """(N, D, h, w) to (N h w, D)."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def pick(x: Tensor, size: torch.Size) -> Tensor:
    """Nearest down-sampling of (N, h, w) or (N, K, h, w) to any size: cell i takes floor(i h / size)."""
    rows, columns = (torch.arange(new, device=x.device) * old // new for new, old in zip(size, x.shape[-2:]))
    return x[..., rows[:, None], columns]
