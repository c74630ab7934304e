import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tiny_networks import SETR, batch_of, method_of, network_of
from torch import nn
from torch._dynamo.utils import counters

from s4former.benchmark.inputs import randomize_classifier
from s4former.benchmark.operations import OperationCounter
from s4former.config import Method, Optimizer, from_dict
from s4former.errors import ConfigError
from s4former.method.pseudo import COUNTS, count_pseudo, pseudo_label
from s4former.method.step import train_step
from s4former.method.student import Student, View
from s4former.networks import adapters, build
from s4former.networks.build import build_network
from s4former.training import engine
from s4former.training.engine import (
    Teacher,
    build_accelerator,
    build_optimizer,
    device_notes,
    fast_products,
    needs_cpu,
    precision,
    prepare_student,
    use_deterministic_operations,
    predict_with_student,
    update,
)
from s4former.training.interrupts import FiniteCheck
from s4former.training.log import read_terms
from s4former.training.pseudo_quality import PseudoLabelCounts
from s4former.training.schedules import ema_decay, learning_rate


class Small(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), value))
        self.norm = nn.BatchNorm1d(2)
        self.norm.running_mean.fill_(value)
        self.norm.running_var.fill_(value)


def test_the_teacher_forgets_at_the_published_rate_running_statistics_too():
    teacher, student = Teacher(Small(1.0)), Small(0.0)
    student.norm.num_batches_tracked.fill_(7)
    for _ in range(3):
        teacher.follow(student, 0.999)
    for value in (teacher.network.weight, teacher.network.norm.running_mean, teacher.network.norm.running_var):
        assert torch.allclose(value, torch.tensor(0.997003), atol=1e-6)
    for _ in range(997):
        teacher.follow(student, 0.999)
    assert torch.allclose(teacher.network.weight, torch.tensor(0.367695), atol=1e-5)
    assert teacher.network.norm.num_batches_tracked == 0


def test_decay_zero_copies_and_decay_one_keeps():
    teacher, student = Teacher(Small(1.0)), Small(0.25)
    teacher.follow(student, 1.0)
    assert torch.equal(teacher.network.weight, torch.ones(3))
    teacher.follow(student, 0.0)
    assert torch.equal(teacher.network.weight, student.weight)


def test_the_teacher_is_a_copy_without_gradient_that_is_never_in_training_mode():
    network = network_of("setr")
    teacher = Teacher(network)
    assert all(torch.equal(a, b) and a is not b for a, b in zip(teacher.network.parameters(), network.parameters()))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not teacher.train().network.training


def test_groups_are_encoder_and_head_each_with_and_without_decay():
    student = Student(network_of("setr"), Method())
    optimizer = build_optimizer(student, Optimizer(weight_decay=0.01))
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    groups = {(g["base"], g["weight_decay"]): {names[id(p)] for p in g["params"]} for g in optimizer.param_groups}
    assert set(groups) == {(1e-3, 0.01), (1e-3, 0.0), (1e-2, 0.01), (1e-2, 0.0)}
    assert sum(len(group) for group in groups.values()) == len(names)
    assert {"network.vit.embeddings.position_embeddings", "network.vit.embeddings.cls_token"} <= groups[1e-3, 0.0]
    assert all(name.startswith("network.vit.") for rate, _ in groups for name in groups[rate, _] if rate == 1e-3)
    assert any(name.startswith("auxiliary.") for name in groups[1e-2, 0.01])


def test_both_groups_meet_at_the_floor():
    config = from_dict({"schedule": {"steps": 100}})
    optimizer = build_optimizer(Student(network_of("setr"), Method()), Optimizer())
    first, last = ([learning_rate(group["base"], step, config.schedule) for group in optimizer.param_groups] for step in (0, 99))
    assert set(first) == {1e-3, 1e-2} and last == [pytest.approx(1e-4, rel=2.0)] * len(last)


def run_update(method, teacher_mode="after", rounds=1, clip=0.0, seed=0):
    torch.manual_seed(seed)
    config = from_dict({
        "data": {"source": "shapes"}, "optimizer": {"clip_norm": clip}, "run": {"batch": {"rounds": rounds}},
        "method": {"threshold": 0.21, "ema_order": teacher_mode, "mix_group": 2, "auxiliary_weight": 0},
    })  # fmt: skip
    network = build_network(SETR, id2label={i: str(i) for i in range(5)}, crop=(32, 64)).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda module, inputs: module.eval() and None)
    teacher, student = Teacher(network), Student(network, config.method).double()
    optimizer = build_optimizer(student, config.optimizer)
    batch = batch_of("setr")
    parts = [batch] if rounds == 1 else [half(batch, i) for i in range(2)]
    terms = update(Accelerator(cpu=True), student, teacher, optimizer, parts, 0, config)
    return terms, network, teacher


def half(batch, index):
    """Half a batch: images 2i and 2i+1 of the unlabelled ones, all labelled ones."""
    part = slice(2 * index, 2 * index + 2)
    strong = batch.strong[0]
    mix = {"boxes": strong.mix["boxes"][part], "partner": torch.tensor([1, 0])}
    view = type(strong)(images=strong.images[part], mix=mix, orders=strong.orders[part])
    return replace(batch, weak=batch.weak[part], valid=batch.valid[part], strong=(view,))


@pytest.mark.parametrize("teacher", ["ema", "student"])
@pytest.mark.parametrize("burn_in", [0, 1])
def test_the_valid_normaliser_gives_the_same_update_whatever_the_rounds(teacher, burn_in):
    """Images 0 and 2 have more padding and fewer labels than the others, so the rounds have other counts than their mean."""
    method = {"threshold": 0.21, "mix": "none", "auxiliary_weight": 0, "normalizer": "valid", "teacher": teacher, "burn_in": burn_in}
    batch = batch_of("setr")
    labels = torch.cat([batch.labels, batch.labels[:1]])
    labels[0, :20] = 255
    batch = replace(batch, labeled=torch.cat([batch.labeled, batch.labeled[:1]]), labels=labels, strong=(
        replace(batch.strong[0], mix={}, orders=torch.arange(2).reshape(1, 1, 2).repeat(4, 1, 1)),))  # fmt: skip

    def part(rows):
        strong = replace(batch.strong[0], images=batch.strong[0].images[rows], orders=batch.strong[0].orders[rows])
        return replace(batch, labeled=batch.labeled[rows], labels=batch.labels[rows], weak=batch.weak[rows],
                       valid=batch.valid[rows], strong=(strong,))  # fmt: skip

    found = []
    for parts in ([batch], [part(slice(0, 2)), part(slice(2, 4))]):
        config = from_dict({"data": {"source": "shapes"}, "method": method, "run": {"batch": {"rounds": len(parts)}}})
        network = network_of("setr").eval()
        student = Student(network, config.method).double().eval()
        labeler = Teacher(network) if teacher == "ema" else None
        terms = update(Accelerator(cpu=True), student, labeler, build_optimizer(student, config.optimizer), iter(parts), 0, config)
        found.append((torch.cat([parameter.flatten() for parameter in network.parameters()]), terms))
    (one, terms), (two, of_rounds) = found
    assert torch.allclose(one, two, atol=1e-12) and not torch.equal(one[:9], network_of("setr").state_dict()["vit.embeddings.cls_token"].flatten()[:9])
    assert ("consistency_strong" in terms) == (burn_in == 0)
    assert all(torch.allclose(terms[name], of_rounds[name]) for name in terms if name not in (*COUNTS, "confident"))


def test_the_teacher_follows_after_the_step_or_before_it():
    _, network, teacher = run_update(method_of())
    moved = [torch.equal(a, b) for a, b in zip(teacher.network.parameters(), network.parameters())]
    assert not all(moved)
    start = network_of("setr")
    _, network, teacher = run_update(method_of(), teacher_mode="before")
    torch.manual_seed(0)
    start = build_network(SETR, id2label={i: str(i) for i in range(5)}, crop=(32, 64)).double()
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(teacher.network.parameters(), start.parameters()))


def test_the_terms_of_accumulation_rounds_are_averaged_and_add_up():
    terms, _, _ = run_update(method_of(), rounds=2)
    assert all(torch.isfinite(value).all() for value in terms.values())
    assert torch.allclose(terms["total"], terms["supervised"] + (terms["consistency_strong"] + terms["ncr_strong"]
                          + terms["consistency_pasa"] + terms["ncr_pasa"]) / 2)  # fmt: skip


def test_clipping_shortens_the_step_and_reports_the_norm_before():
    free, long, _ = run_update(method_of())
    clipped, short, _ = run_update(method_of(), clip=1e-4)
    assert free["gradient"] == clipped["gradient"] > 1e-4
    torch.manual_seed(0)
    start = build_network(SETR, id2label={i: str(i) for i in range(5)}, crop=(32, 64)).double()
    moved = [sum((a - b).abs().sum() for a, b in zip(n.parameters(), start.parameters())) for n in (long, short)]
    assert 0 < moved[1] < moved[0] / 100


def test_a_burn_in_trains_on_labels_only_while_the_teacher_follows_and_the_restart_has_a_new_optimizer():
    config = from_dict({
        "data": {"source": "shapes"}, "method": {"burn_in": 2, "threshold": 0.21, "mix_group": 2, "ema": 0.5},
        "schedule": {"steps": 4, "floor": 0, "power": 1, "restart": 0.3}, "optimizer": {"name": "adamw"},
    })  # fmt: skip
    network = network_of("setr")
    teacher, student = Teacher(network), Student(network, config.method).double()
    optimizer, accelerator = build_optimizer(student, config.optimizer), Accelerator(cpu=True)
    before = [parameter.clone() for parameter in teacher.network.parameters()]
    for step in range(3):
        terms = update(accelerator, student, teacher, optimizer, [batch_of("setr")], step, config)
        assert ("consistency_strong" in terms) == (step == 2)
        assert min(group["lr"] for group in optimizer.param_groups) == pytest.approx((1e-3, 5e-4, 3e-4)[step])
        assert {int(state["step"]) for state in optimizer.state.values()} == {(1, 2, 1)[step]}  # a new one at the restart
    assert any(not torch.equal(a, b) for a, b in zip(before, teacher.network.parameters()))


def test_fixmatch_labels_with_the_student_in_eval_mode_and_leaves_it_training():
    config = from_dict({"data": {"source": "shapes"}, "method": {"teacher": "student", "threshold": 0.21, "mix_group": 2,
                        "pasa": "none", "regularizer": "none", "auxiliary_weight": 0}})  # fmt: skip
    network = network_of("setr")
    student = Student(network, config.method).double().train()
    batch, statistics = batch_of("setr"), [b.clone() for b in network.buffers()]
    logits = predict_with_student(network, batch.weak)
    assert not logits.requires_grad and network.training
    assert all(torch.equal(a, b) for a, b in zip(statistics, network.buffers()))
    assert torch.equal(logits, Teacher(network)(batch.weak))
    optimizer = build_optimizer(student, config.optimizer)
    terms = update(Accelerator(cpu=True), student, None, optimizer, [batch], 0, config)
    assert terms["consistency_strong"] > 0 and network.training


def test_unimatch_reads_its_own_images_in_training_mode_and_those_of_the_second_batch_in_eval_mode():
    network = network_of("setr").train()
    images = batch_of("setr").weak
    statistics = [b.clone() for b in network.buffers()]
    assert torch.isfinite(predict_with_student(network, images, in_training_mode=3, fixed=True)).all()
    assert all(torch.equal(a, b) for a, b in zip(statistics, network.buffers()) if a.is_floating_point())  # not the counters
    logits = predict_with_student(network, images, in_training_mode=3)
    assert network.training and not logits.requires_grad
    assert any(not torch.equal(a, b) for a, b in zip(statistics, network.buffers()))
    assert torch.equal(logits[3:], Teacher(network)(images[3:]))
    assert not torch.allclose(logits[:3], Teacher(network)(images[:3]))


def test_a_teacher_that_starts_warm_is_the_student_until_it_follows():
    method = Method(ema=0.9, ema_warm_up=True, ema_copies=3)
    assert [ema_decay(step, method) for step in (0, 2)] == [0.0, 0.0]
    assert ema_decay(3, method) == 0.75 and ema_decay(100, method) == 0.9


@pytest.mark.slow
def test_two_labelled_images_are_learned_by_heart():
    torch.manual_seed(0)
    config = from_dict({
        "data": {"source": "shapes"}, "method": {"teacher": "none", "auxiliary_weight": 0},
        "optimizer": {"name": "adamw", "lr": 5e-3, "head_multiplier": 2}, "schedule": {"steps": 220, "floor": 0},
    })  # fmt: skip
    network = network_of("setr").float()
    student, batch = Student(network, config.method).train(), batch_of("setr").map(lambda t: t.float() if t.is_floating_point() else t)
    labels = torch.randint(5, (3, 2, 4), generator=torch.Generator().manual_seed(0))
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
    batch = type(batch)(**{**vars(batch), "labels": labels})
    optimizer, accelerator = build_optimizer(student, config.optimizer), Accelerator(cpu=True)
    for step in range(220):
        update(accelerator, student, None, optimizer, [batch], step, config)
    logits = torch.nn.functional.interpolate(student([View(batch.labeled)])[0][0], size=(32, 64), mode="bilinear")
    assert (logits.argmax(dim=1) == labels).float().mean() > 0.9


def test_layer_decay_slows_every_block_from_the_last_to_the_embeddings():
    student = Student(network_of("setr"), Method())
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    optimizer = build_optimizer(student, Optimizer(lr=1.0, head_multiplier=3.0, layer_decay=0.5))
    rates = {names[id(p)]: group["base"] for group in optimizer.param_groups for p in group["params"]}
    assert rates["network.vit.embeddings.cls_token"] == 0.5**4
    assert [rates[f"network.vit.layers.{block}.mlp.fc1.weight"] for block in range(4)] == [0.125, 0.25, 0.5, 1.0]
    assert {rate for name, rate in rates.items() if not name.startswith("network.vit.")} == {3.0}
    assert len(rates) == len(names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch looks there, and hides it itself
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_compiled_networks_train_the_same_with_one_graph_for_all_blocks_and_keep_their_names(precision, monkeypatch, tmp_path):
    monkeypatch.setattr(adapters, "COMPILER", "aot_eager")  # traces as inductor does, and writes no code
    config = from_dict({"data": {"source": "shapes"}, "method": {"threshold": 0.21, "mix_group": 2}})
    batch = batch_of("setr").map(lambda x: x.float() if x.is_floating_point() else x)
    found = []
    for compiled in (False, True):
        network = network_of("setr").float()
        names = list(network.state_dict())
        teacher, student = Teacher(network), Student(network, config.method)
        AcceleratorState._reset_state(True)
        optimizer, accelerator = build_optimizer(student, config.optimizer), Accelerator(cpu=True, mixed_precision=precision)
        if compiled:
            torch.compiler.reset()
            counters.clear()
            adapters.compile_each(student.auxiliary)
            adapters.compile_network(network)
            adapters.compile_network(teacher.network)
        graphs = []
        for step in range(3):
            terms = update(accelerator, student, teacher, optimizer, [batch], step, config)
            graphs.append(counters["stats"]["unique_graphs"])
        found.append(torch.cat([value.double().flatten() for value in terms.values()]))
        assert list(network.state_dict()) == names
    # of a block and of the decoder: the teacher, the plain views (for the decoder labelled ones), the view with a bias, which
    # under autocast shares their pass; and the auxiliary head
    assert graphs == [7 if precision == "no" else 6] * 3 and not counters["graph_break"]
    assert torch.allclose(*found, rtol=1e-5 if precision == "no" else 1e-2)
    with torch.compiler.set_stance("force_eager"):
        build.save_network(network, tmp_path, (0.5,) * 3, (0.5,) * 3, 32)
    assert torch.equal(build.load_network(tmp_path).state_dict()[names[0]], network.state_dict()[names[0]])


@pytest.mark.parametrize("family", ["setr", "segformer"])
def test_half_precision_does_not_move_the_share_of_confident_pixels(family):
    network, batch = network_of(family).float(), batch_of(family).map(lambda x: x.float() if x.is_floating_point() else x)
    randomize_classifier(network)
    teacher, shares = Teacher(network), []
    threshold = teacher(batch.weak).softmax(dim=1).amax(dim=1).median().item()  # where most pixels are near it
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            pseudo = pseudo_label(teacher(batch.weak), batch.valid, threshold)
        assert pseudo.confidence.dtype == pseudo.logits.dtype == torch.float32
        shares.append((pseudo.label != 255).float().mean().item())
    assert 0.2 < shares[0] < 0.8 and shares[1] == pytest.approx(shares[0], abs=0.02)


def test_losses_and_the_bias_are_float32_under_half_precision():
    method, batch = method_of(), batch_of("setr").map(lambda x: x.float() if x.is_floating_point() else x)
    network = network_of("setr").float()
    student, teacher = Student(network, method), Teacher(network)
    with torch.autocast("cpu", torch.bfloat16):
        terms = train_step(student, teacher, batch, method)
    assert all(value.dtype == torch.float32 for name, value in terms.items() if name.startswith(("sup", "aux", "cons", "ncr")))
    row, column = student.attention_arguments(View(batch.weak, confidence=torch.rand(4, 8, 16)))["pasa"].popitem()[1].factors
    assert row.dtype == column.dtype == torch.float32


def test_accumulation_and_compilation_from_the_environment_change_nothing_and_sharding_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    accelerator = build_accelerator("no", cpu=True)
    weight = torch.ones(1, requires_grad=True)
    accelerator.backward(3 * weight)
    assert weight.grad == 3 and type(accelerator.prepare(torch.nn.Linear(1, 1))) is torch.nn.Linear
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="ACCELERATE_USE_FSDP is set, and training here knows plain data parallelism alone"):
        build_accelerator("no", cpu=True)


def test_a_line_of_the_log_is_of_all_processes_and_takes_one_reduction():
    """Two processes: this one, and another with a loss of 3 and a tenth of the valid pixels, all of them pseudo labels."""
    calls = []

    def reduce(own, reduction):
        calls.append(reduction)
        other = own.clone()
        other[:3], other[-2:] = torch.tensor([3.0, 3.0, 3.0]), torch.tensor([100.0, 100.0])
        return (own + other) / 2

    counts = PseudoLabelCounts(["a", "b"])
    terms = {"total": torch.tensor(1.0), "supervised": torch.tensor(1.0), "consistency_strong": torch.tensor(0.0),
             "consistency_pasa": torch.tensor(2.0), "gradient": torch.tensor(5.0), "confident": torch.tensor(0.5),
             "pseudo_labels": torch.tensor([500.0, 0.0]), "confidences": torch.full((20,), 50.0)}  # fmt: skip
    counts.update(terms)
    training = SimpleNamespace(
        finite=FiniteCheck(), config=from_dict({}), accelerator=SimpleNamespace(reduce=reduce), pseudo_counts=counts,
        step=1,
    )  # fmt: skip
    values = read_terms(training, terms)
    assert calls == ["mean"] and values["confident"] == pytest.approx(600 / 1100)
    assert (values["loss/total"], values["loss/consistency"], values["gradient"]) == (2.0, 2.0, 5.0)
    del terms["confident"]
    assert "confident" not in read_terms(training, terms)


def test_auto_takes_bf16_on_cards_that_compute_in_it_and_what_the_launcher_was_told(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    assert precision("auto") == "no" and device_notes("auto") == ()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert precision("auto") == "no"  # the card only emulates it
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert precision("auto") == "bf16" and precision("no") == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # what accelerate launch sets where nothing was asked for
    assert precision("auto") == "bf16" and device_notes("fp16") == ()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert precision("auto") == "fp16" and device_notes("auto") == device_notes("fp16") == ()
    assert device_notes("no") == (
        "run.mixed_precision = 'no' is followed (no), not --mixed_precision fp16 of accelerate launch; the two are better the same",)  # fmt: skip


def test_apples_gpu_is_left_out_in_one_sentence(monkeypatch):
    assert needs_cpu() and device_notes("no") == ()
    found = {"current_accelerator": lambda check_available: torch.device("mps"), "is_available": lambda: True}
    for name, value in found.items():
        monkeypatch.setattr(torch.accelerator, name, value)
    (note,) = device_notes("no")
    assert needs_cpu() and note == "Apple's GPU (mps) has no float64, in which pixels are counted, so the CPU is used"
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    assert not needs_cpu() and device_notes("no") == ()


def test_logits_of_a_prepared_student_stay_in_the_type_of_autocast():
    accelerator, batch = Accelerator(cpu=True, mixed_precision="bf16"), batch_of("setr")
    prepared, optimizer = prepare_student(accelerator, Student(network_of("setr").float(), Method()), Optimizer())
    with accelerator.autocast():
        outputs = prepared([View(batch.labeled.float(), auxiliary=True), View(batch.weak.float())])
    assert {x.dtype for logits, auxiliary in outputs for x in (logits, *auxiliary)} == {torch.bfloat16}
    assert type(optimizer).__name__ == "AcceleratedOptimizer" and prepared([View(batch.labeled.float())])[0][0].dtype == torch.float32


def test_activation_checkpointing_casts_no_weight_a_second_time():
    config, batch = from_dict({"data": {"source": "shapes"}, "method": {"mix_group": 2}}), batch_of("setr")
    batch, casts, gradients = batch.map(lambda x: x.float() if x.is_floating_point() else x), [], []
    for checkpointing in (False, True):
        network = network_of("setr").float()
        if checkpointing:
            adapters.use_activation_checkpointing(network)
        teacher, student = Teacher(network), Student(network, config.method).train()
        optimizer, accelerator = build_optimizer(student, config.optimizer), Accelerator(cpu=True, mixed_precision="bf16")
        with OperationCounter() as counter:
            update(accelerator, student, teacher, optimizer, [batch], 0, config)
        casts.append(sum(one.kind.startswith("cast") and one.kind.endswith("weight") for one in counter.operations))
        gradients.append(torch.cat([parameter.flatten() for parameter in network.parameters()]))
    assert casts[0] == casts[1] and torch.equal(*gradients)


@pytest.mark.parametrize("device, deterministic, fast", [("cuda", False, True), ("cuda", True, False), ("cpu", False, False)])
def test_a_step_on_a_gpu_takes_tf32_and_tuned_convolutions_and_leaves_evaluation_without(device, deterministic, fast):
    def settings():
        return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.benchmark

    before = settings()
    with pytest.raises(ZeroDivisionError), fast_products(torch.device(device), deterministic):
        assert settings() == (("tf32", "tf32", True) if fast else before)
        1 / 0
    assert settings() == before and not before[-1]


@pytest.fixture
def deterministic(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    use_deterministic_operations()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8" and torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(False)


def test_an_operation_that_is_not_deterministic_is_named(deterministic, monkeypatch):
    def train_step(*arguments):
        raise RuntimeError(
            "upsample_bicubic2d_backward_out_cuda does not have a deterministic implementation, but you set"
            " 'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation, ..."
        )

    monkeypatch.setitem(engine.ALGORITHMS, "consistency", train_step)
    with pytest.raises(ConfigError, match="^run.deterministic is true, and on this device upsample_bicubic2d_backward_out_cuda has no"):
        run_update(method_of())
    monkeypatch.setitem(engine.ALGORITHMS, "consistency", lambda *arguments: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        run_update(method_of())


def test_an_update_on_a_cpu_is_the_same_to_the_byte_with_deterministic_operations(deterministic):
    found = []
    for wanted in (True, True, False):
        torch.use_deterministic_algorithms(wanted)
        terms, network, teacher = run_update(method_of())
        found.append([*network.state_dict().values(), *teacher.state_dict().values(), *terms.values()])
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*found))


def test_the_histograms_of_pseudo_labels_are_taken_where_torch_refuses_them(deterministic, monkeypatch):
    """On a GPU histc is refused there."""
    histc, pseudo = torch.histc, pseudo_label(torch.randn(2, 5, 4, 6), torch.ones(2, 4, 6, dtype=torch.bool), 0.3)

    def refused(*arguments, **limits):
        assert not torch.are_deterministic_algorithms_enabled()
        return histc(*arguments, **limits)

    monkeypatch.setattr(torch, "histc", refused)
    counts = count_pseudo(pseudo)
    assert torch.are_deterministic_algorithms_enabled() and counts["confidences"].sum() == 48
