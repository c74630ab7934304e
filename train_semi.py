"""Trains a segmentation model from labelled and unlabelled images.

    accelerate launch train_semi.py --config configs/demo.json [--resume] [section.key=value ...]
"""

import argparse
import json
import shlex
import shutil
import sys
import time
from importlib.metadata import version
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from s4former import checkpoint
from s4former.config import Config, ConfigError, load, share_of_process, to_dict
from s4former.data import Steps, ValidationSet, step_loader
from s4former.engine import (
    Finiteness,
    NonFiniteLoss,
    Signals,
    Teacher,
    build_optimizer,
    draw_predictions,
    evaluate_models,
    flat,
    peak_memory_gib,
    precision,
    restore_training_state,
    training_state,
    update,
)
from s4former.export import Provenance, export, push
from s4former.inference import Setting
from s4former.models import build_network, normalization
from s4former.randomness import Stream, torch_seed
from s4former.runlog import RunLog
from s4former.sources import DataError, Sources, check_masks, load_sources
from s4former.student import Student, check_fit, shuffle_grid

# Keys that may differ when a run is resumed: they change what is reported, not what is trained.
FREE_KEYS = ("run.output", "run.log_every", "run.checkpoint_every", "run.keep", "run.trackers", "run.push", "evaluation.", "data.workers")


def main() -> int:
    arguments = read_arguments()
    try:
        config = load(arguments.config, arguments.overrides)
        folder = Path(config.run.output or Path("runs") / Path(arguments.config).stem)
        accelerator = Accelerator(
            mixed_precision=precision(config.run.mixed_precision),
            log_with=list(config.run.trackers) or None,
            project_dir=folder,
        )
        share_of_process(config, accelerator.num_processes)
        sources = load_sources(config.data)
        sources = replace(sources, notes=(*sources.notes, *check_masks(sources, config.data)))
        state = starting_point(folder, config, arguments.resume, accelerator)
        train(config, sources, folder, state, accelerator)
    except (ConfigError, DataError, NonFiniteLoss) as error:
        print(f"\n{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 1
    return 0


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="JSON file; what it leaves out is the paper's setting")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the same command")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="set one key of the config")
    return parser.parse_args()


def starting_point(folder: Path, config: Config, resume: bool, accelerator: Accelerator) -> dict[str, Any] | None:
    """The state to go on from, or None for a fresh run, whose folder and config.json are made."""
    state = None
    if resume:
        state, refused = checkpoint.newest(folder / "checkpoints")
        for sentence in refused:
            accelerator.print(sentence, file=sys.stderr)
    elif checkpoint.complete(folder / "checkpoints") or (folder / "results.json").exists():
        raise ConfigError(
            f"{folder} already holds a run; add --resume to go on with it, give another folder with run.output=...,"
            " or delete it"
        )
    if state is not None:
        refuse_other_config(folder, state["config"], to_dict(config))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text(folder / "config.json", json.dumps(to_dict(config), indent=2) + "\n")
    accelerator.wait_for_everyone()
    return state


def refuse_other_config(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    before, after = flat(old), flat(new)
    changed = [
        f"{key} was {before.get(key)!r}, now {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not key.startswith(FREE_KEYS)
    ]
    if changed:
        raise ConfigError(
            f"cannot resume {folder} with another config: {'; '.join(changed)}; use the command it was started with,"
            " or another run.output"
        )


def train(
    config: Config, sources: Sources, folder: Path, state: dict[str, Any] | None, accelerator: Accelerator
) -> None:
    """Trains from `state` (or from the start) to the last step and leaves exports, results.json and a picture."""
    run, method, schedule = config.run, config.method, config.schedule
    torch.manual_seed(torch_seed(run.seed, Stream.INITIALIZATION))
    names = dict(enumerate(sources.classes))
    network = build_network(config.model, id2label=names, crop=config.data.crop)
    mean, std = normalization(config.model)
    notes = [*sources.notes, *check_fit(config, network)]
    teacher = None if method.teacher == "none" else Teacher(network).to(accelerator.device)
    student = Student(network, method)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
    optimizer = build_optimizer(student, config.optimizer)
    student, optimizer = accelerator.prepare(student, optimizer)

    first, progress = 0, {"seconds": 0.0, "best": {}, "replaced": 0}
    if state is not None:
        restore_training_state(state, accelerator, student, teacher, optimizer)
        first, progress = state["step"], state["progress"]
    networks = {"student": accelerator.unwrap_model(student).network}
    if teacher is not None:
        networks = {"teacher": teacher.network, **networks}
    steps = Steps(config, sources, shuffle_grid(config, network), accelerator.process_index, accelerator.num_processes)
    validation = ValidationSet(config, sources, config.evaluation.limit)
    setting = Setting(evaluation=config.evaluation, crop=config.data.crop, mean=mean, std=std, device=accelerator.device)
    constants = tuple(torch.tensor(c, device=accelerator.device)[:, None, None] for c in (mean, std))
    finiteness = Finiteness(accelerator.device)
    signals = Signals(accelerator)
    images_per_step = run.batch.labeled + (run.batch.unlabeled if teacher is not None else 0)

    accelerator.init_trackers("s4former", config={k: str(v) for k, v in flat(to_dict(config)).items()})
    log = RunLog(folder, accelerator, schedule.steps, first)
    for note in notes:
        log.say(note)
    log.say(f"{method.title}: {len(sources.labeled)} labelled, {len(sources.unlabeled)} unlabelled and"
            f" {len(validation)} evaluation images, {len(sources.classes)} classes, on {accelerator.num_processes} x"
            f" {accelerator.device.type} ({accelerator.mixed_precision})" + (f", from step {first}" if first else ""))  # fmt: skip

    def save(step: int) -> None:
        finiteness.raise_if_bad()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            everything = training_state(step, accelerator, student, teacher, optimizer)
            everything |= {"progress": progress, "config": to_dict(config)}
            checkpoint.save(folder / "checkpoints", step, everything, run.keep)

    def provenance(role: str, step: int, scores: dict | None, chosen: bool) -> Provenance:
        return Provenance(
            method=method.title, role=role, step=step, scores=scores, chosen=chosen, lists=sources.lists,
            command=command_line(), versions=versions(),
        )  # fmt: skip

    def write_model(role: str, name: str, step: int, scores: dict | None, chosen: bool) -> None:
        if accelerator.is_main_process:
            export(networks[role], folder / name, config=config, mean=mean, std=std,
                   provenance=provenance(role, step, scores, chosen))  # fmt: skip

    scores: dict[str, dict[str, Any]] = {}
    batches = step_loader(steps, first, schedule.steps, workers=config.data.workers, pin_memory=accelerator.device.type == "cuda")
    window_start, waited, window_steps = time.perf_counter(), 0.0, 0
    for step in range(first, schedule.steps):
        fetching = time.perf_counter()
        rounds = [next(batches) for _ in range(run.batch.rounds)]
        waited += time.perf_counter() - fetching
        for batch in rounds:
            for complaint in batch.replaced:
                progress["replaced"] += 1
                log.say(f"step {step}: replaced an unlabelled image: {complaint}")
                log.record("replaced", step + 1, {"reason": complaint, "total": progress["replaced"]})
        on_device = (batch.on(accelerator.device, *constants) for batch in rounds)
        terms = update(accelerator, student, teacher, optimizer, on_device, step, config)
        finiteness.watch(step, {k: v for k, v in terms.items() if k != "gradient" or accelerator.scaler is None})
        done, window_steps = step + 1, window_steps + 1

        if done % run.log_every == 0 or done == schedule.steps:
            finiteness.raise_if_bad()
            values = {name: float(value) for name, value in report_terms(terms, method.regularizer).items()}
            elapsed = time.perf_counter() - window_start
            progress["seconds"] += elapsed
            values |= {
                "learning_rate": optimizer.param_groups[0]["lr"],
                "images_per_second": round(images_per_step * window_steps / elapsed, 2),
                "waiting": round(waited / elapsed, 4),
                "seconds_left": round(elapsed / window_steps * (schedule.steps - done), 1),
            }
            log.progress(done, values)
            window_start, waited, window_steps = time.perf_counter(), 0.0, 0

        stopping = signals.caught(done % run.log_every == 0)
        evaluating = done % config.evaluation.every == 0 or done == schedule.steps
        saving = done % run.checkpoint_every == 0 or done == schedule.steps
        pushing = bool(run.push_to_hub) and run.push_every > 0 and done % run.push_every == 0 and done < schedule.steps
        if not (evaluating or saving or stopping or pushing):
            continue
        progress["seconds"] += time.perf_counter() - window_start

        if evaluating and not stopping:
            finiteness.raise_if_bad()
            scores = evaluate_models(networks, validation, setting, accelerator)
            for role, score in scores.items():
                log.record(f"evaluation/{role}", done, score)
                if progress["best"].get(role) is None or score["mean_iou"] > progress["best"][role]["mean_iou"]:
                    progress["best"][role] = {**score, "step": done}
                    write_model(role, f"best-{role}", done, score, chosen=True)
            log.say(f"step {done}: " + ", ".join(f"{role} mIoU {100 * s['mean_iou']:.2f}" for role, s in scores.items()))
        if saving or stopping:
            save(done)
        if pushing:
            push_model(next(iter(networks)), folder / "pushing", done, scores, write_model, config, log, accelerator)
        if stopping and done < schedule.steps:
            log.say(f"stopped by {signals.name} after step {done}, checkpoint written; the same command with --resume goes on")
            log.close()
            accelerator.end_training()
            return
        window_start, waited, window_steps = time.perf_counter(), 0.0, 0

    if not scores:  # resumed at the very end
        scores = evaluate_models(networks, validation, setting, accelerator)
    for role in networks:
        write_model(role, role, schedule.steps, scores[role], chosen=False)
    if accelerator.is_main_process:
        results = {
            "method": method.title,
            "seed": run.seed,
            "steps": schedule.steps,
            "last": scores,
            "best": progress["best"],
            "hours": round(progress["seconds"] / 3600, 4),
            "images_per_second": round(images_per_step * schedule.steps / progress["seconds"], 2),
            "peak_memory_gib": round(peak_memory_gib(accelerator.device), 2),
            "replaced_images": progress["replaced"],
            "lists": sources.lists,
            "command": command_line(),
            "versions": versions(),
            "config": to_dict(config),
        }
        checkpoint.write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
        draw_predictions(networks, validation, setting, folder / "predictions.png", f"{method.title} after {schedule.steps} steps")
    if run.push_to_hub:
        push_model(next(iter(networks)), folder / "pushing", schedule.steps, scores, write_model, config, log, accelerator)
    for role, score in scores.items():
        best = progress["best"][role]
        log.say(f"{role:8s} last {100 * score['mean_iou']:.2f} mIoU, best {100 * best['mean_iou']:.2f} at step {best['step']}"
                " (chosen on the evaluation images)")  # fmt: skip
    log.say(f"results: {folder / 'results.json'}   picture: {folder / 'predictions.png'}")
    log.say(f"evaluate it: python evaluate.py --checkpoint {folder}")
    log.close()
    accelerator.end_training()


def report_terms(terms: dict[str, torch.Tensor], regularizer: str) -> dict[str, torch.Tensor]:
    """The terms as a reader wants them: every loss once, the student branches averaged."""
    shown = {"loss/total": terms["total"], "loss/supervised": terms["supervised"]}
    for name in ("consistency", regularizer):
        branches = [value for key, value in terms.items() if key in (f"{name}_strong", f"{name}_pasa")]
        if branches:
            shown[f"loss/{name}"] = sum(branches) / len(branches)
    if "confident" in terms:
        shown["confident"] = terms["confident"]
    return shown | {"gradient": terms["gradient"]}


def push_model(role, folder, step, scores, write_model, config, log, accelerator) -> None:
    """Exports a model into a folder of its own and uploads it; a failure is a warning."""
    write_model(role, folder.name, step, scores.get(role), chosen=False)
    if accelerator.is_main_process:
        complaint = push(folder, config.run.push_to_hub, f"{config.method.title} {role}, step {step}")
        shutil.rmtree(folder, ignore_errors=True)
        where = f"{config.run.push_to_hub} at step {step}"
        log.say(f"pushed to {where}" if complaint is None else f"warning: could not push to {where}: {complaint}")


def command_line() -> str:
    return "python " + shlex.join([a for a in sys.argv if a != "--resume"])


def versions() -> dict[str, str]:
    packages = ("torch", "transformers", "accelerate", "datasets", "pillow", "numpy")
    return {"python": sys.version.split()[0], **{package: version(package) for package in packages}}


if __name__ == "__main__":
    sys.exit(main())
