"""Writes one process's view of a step, or both processes' together: the global batch and the gradient, in float64,
or with "precision": "bf16" among the keys in float32 under autocast.

    python tests/two_processes.py OUT.pt [METHOD_KEYS_AS_JSON]
    python -m torch.distributed.run --standalone --nproc_per_node 2 tests/two_processes.py OUT.pt [METHOD_KEYS_AS_JSON]
"""

import json
import sys
from dataclasses import fields
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from scripts import TINY
from torch import Tensor, nn

from s4former.config import from_dict
from s4former.data.batches import StepDataset
from s4former.data.sources import load_sources
from s4former.method.algorithms import ALGORITHMS
from s4former.method.checks import shuffle_grid
from s4former.method.context import StepContext
from s4former.method.step import total_loss
from s4former.method.student import Student
from s4former.networks.build import build_network
from s4former.training.engine import build_teacher, predict_with_student, prepare_student

keys = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
precision = keys.pop("precision", "no")
dtype = torch.float64 if precision == "no" else torch.float32
accelerator = Accelerator(cpu=True, mixed_precision=precision)
model = {**TINY["model"], "encoder_config": {**TINY["model"]["encoder_config"], "hidden_dropout_prob": 0.0,
                                             "attention_probs_dropout_prob": 0.0}}  # fmt: skip
config = from_dict({**TINY, "model": model, "method": {**TINY["method"], "mix_probability": 1.0, **keys}})
sources = load_sources(config.data)
torch.manual_seed(0)
network = build_network(config.model, id2label=dict(enumerate(sources.classes)), crop=config.data.crop).to(dtype)
student = Student(network, config.method).to(dtype)
teacher = build_teacher(student)
for module in student.modules():
    if isinstance(module, nn.BatchNorm2d):
        module.register_forward_pre_hook(lambda module, inputs: module.eval() and None)
grid = shuffle_grid(config, network)
batch = StepDataset(config, sources, grid, accelerator.process_index, accelerator.num_processes).batch(3, 0)
wrapped, _ = prepare_student(accelerator, student, config.optimizer)
mean = std = torch.full((3, 1, 1), 0.5, dtype=dtype)
average = partial(accelerator.reduce, reduction="mean")
batch_here = batch.on(accelerator.device, mean, std)
with accelerator.autocast():
    context = StepContext(predict=partial(predict_with_student, network), progress=0.5, seed=1, average=average,
                          processes=accelerator.num_processes, gather=accelerator.gather)  # fmt: skip
    losses = ALGORITHMS[config.method.algorithm](wrapped, teacher, batch_here, config.method, context)
    total = total_loss(losses, config.method)
accelerator.backward(total)

tensors = {f.name: v for f in fields(batch) if isinstance(v := getattr(batch, f.name), Tensor)} 
tensors |= {"images": batch.strong[0].images, "orders": batch.strong[0].orders, "boxes": batch.strong[0].mix["boxes"]}
parts = gather_object([tensors])
if accelerator.is_main_process:
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    gradients = {name: parameter.grad for name, parameter in student.named_parameters()}
    state = {name: tensor for name, tensor in teacher.state_dict().items() if not name.startswith("network.")}
    torch.save({"processes": accelerator.num_processes, "batch": whole, "gradients": gradients, "state": state}, sys.argv[1])
accelerator.wait_for_everyone()
accelerator.end_training()
