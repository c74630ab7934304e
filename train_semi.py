"""Trains a segmentation model from labelled and unlabelled images.

    accelerate launch train_semi.py --config configs/demo.json [--resume] [section.key=value ...]
    accelerate launch train_semi.py --config configs/voc_92.json --config configs/methods/unimatch_ema.json
    s4former train --config mine.json                           # the same in one process, without a clone too
    python train_semi.py --config configs/demo.json --check     # looks at everything, trains three steps, writes nothing
    python train_semi.py --help-config method                   # the keys of a section, or without its name of all
"""

import argparse
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from s4former.config import help_config, load, share_of_process
from s4former.data.sources import check_masks, load_sources
from s4former.errors import UserError, describe_error
from s4former.evaluation.model_choice import has_checkpoint
from s4former.training.first_checks import check_folder, check_names, lock_folder


def main() -> int:
    arguments = read_arguments()
    try:
        if arguments.help_config is not None:
            print(help_config(arguments.help_config))
            return 0
        config = load(arguments.config, arguments.overrides)
        folder = Path(config.run.output or Path("runs") / "-".join(Path(file).stem for file in arguments.config))

        check_names(config)
        if not arguments.check:
            check_folder(folder, arguments.resume)
        sources = load_sources(config.data)

        # Not at the top: they load torch and transformers, which takes seconds that no mistake above should wait for.
        from transformers.utils.logging import disable_progress_bar

        from s4former.method.checks import drop_ncr_for_two_classes
        from s4former.training.engine import build_accelerator, device_notes, needs_cpu, precision, use_deterministic_operations
        from s4former.training.interrupts import exit_on_signal, handle_signals, ignore_lost_console
        from s4former.training.log import RunLog
        from s4former.training.preflight import preflight
        from s4former.training.resume import explained_errors, find_state, restore
        from s4former.training.run import build_training, prepare_folder
        from s4former.training.trackers import check_trackers

        ignore_lost_console()
        disable_progress_bar()  # of transformers, one for every file it writes
        check_trackers(config.run.trackers)
        if config.run.deterministic:
            use_deterministic_operations()
        accelerator = build_accelerator(
            precision(config.run.mixed_precision),
            cpu=needs_cpu(),
            log_with=list(config.run.trackers) or None,
            project_dir=folder,
        )
        share_of_process(config, accelerator.num_processes)
        config, remarks = drop_ncr_for_two_classes(config, len(sources.classes))
        sources = replace(sources, notes=(*sources.notes, *remarks, *device_notes(config.run.mixed_precision)))
        if arguments.check:
            return preflight(config, sources, folder, accelerator, [word for word in sys.argv[1:] if word != "--check"])
        handle_signals(exit_on_signal)
        with lock_folder(folder, accelerator.is_main_process) as remarks:
            sources = replace(sources, notes=(*sources.notes, *remarks, *check_masks(sources, config.data)))
            check_folder(folder, arguments.resume)  # again, now that it is this run's own
            state = find_state(folder, config, sources, accelerator) if arguments.resume and has_checkpoint(folder) else None
            training = build_training(config, sources, folder, accelerator)
            if state is not None:
                restore(training, state)
            prepare_folder(training)
            with explained_errors(training), closing(RunLog(training)) as log:
                status = train(training, log)
        accelerator.end_training()  # together; an upload may take longer than processes wait for each other
        if training.push is not None and status == 0:
            training.push.join()
        return status
    except (UserError, OSError) as error:
        print(f"\n{Path(sys.argv[0]).name}: {describe_error(error)}", file=sys.stderr)
        return 1


def read_arguments() -> argparse.Namespace:
    check = "Looks at data, memory, time and disk of a run, trains three steps and writes nothing: train with --check.\n\n"
    description = (check if sys.argv[0] == "s4former check" else "") + __doc__
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", action="append", metavar="FILE",
        help="JSON file; what it leaves out is the paper's setting. Given again, the later file goes over the earlier one",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the same command")
    parser.add_argument("--check", action="store_true", help="look at data, memory, time and disk in a minute or two, and write nothing")
    parser.add_argument(
        "--help-config", nargs="?", const="", metavar="SECTION",
        help="print every key of the config, or of one section, with default, range and meaning, and exit",
    )  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="set one key of the config")
    arguments = parser.parse_intermixed_args()
    if not arguments.config and arguments.help_config is None:
        parser.error("the following arguments are required: --config")
    return arguments


def train(training, log) -> int:
    """From the step the run is at to its last one (then 0), or to a signal (then the status a shell gives it)."""
    from s4former.training.calibration import calibrate
    from s4former.training.engine import update
    from s4former.training.interrupts import Signals
    from s4former.training.log import read_terms
    from s4former.training.results import evaluate, finish, log_start, push_model
    from s4former.training.resume import save

    config, accelerator = training.config, training.accelerator
    run, first, last = config.run, training.step, config.schedule.steps
    signals = Signals(accelerator)
    log_start(training, log)
    if training.evaluation_due:  # the run was stopped between a step and its evaluation
        evaluate(training, log)

    with closing(training.batches()) as batches:
        for step in range(first, last):
            calibrate(training, log)
            started = time.perf_counter()
            rounds = [next(batches) for _ in range(run.batch.rounds)]
            waited = time.perf_counter() - started
            on_device = map(training.to_device, rounds)
            terms = update(accelerator, training.student, training.teacher, training.optimizer, on_device, step, config)
            training.pseudo_counts.update(terms, run.batch.rounds)
            training.finite.update(step, terms, scaled=accelerator.scaler is not None)
            training.step = done = step + 1

            log_due = done % run.log_every == 0 or done == last
            values = read_terms(training, terms) if log_due else {}  # the only place that waits for the device
            seconds = time.perf_counter() - started
            # other processes tell of replaced images where all meet anyway
            joint = accelerator.num_processes == 1 or log_due or done % run.checkpoint_every == 0
            log.count_step(rounds, seconds, waited, joint)
            if log_due:
                log.progress(values)
            elif step == first:  # a slow machine would otherwise be silent for minutes
                log.say(f"first step done in {seconds:.1f} s; a line comes every {run.log_every} steps")

            stopping = signals.received(may_synchronize=log_due)
            if done % run.checkpoint_every == 0 or done == last or stopping:
                save(training)  # before the evaluation, which may fail, or take longer than a batch system waits
            if training.evaluation_due and not stopping:
                evaluate(training, log)
            if run.push_to_hub and run.push_every and done % run.push_every == 0 and done < last:
                push_model(training, log)
            if stopping and done < last:
                log.say(f"stopped by {signals.name} after step {done}, checkpoint written; the same command with --resume goes on")
                return 128 + signals.number

    if training.evaluation_due:
        evaluate(training, log)
    finish(training, log)
    return 0


if __name__ == "__main__":
    sys.exit(main())
