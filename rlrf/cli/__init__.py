"""Define the command line: each command is a thin shell over a function that a notebook can call.

Results go to stdout, progress and logs to stderr. Every error is a sentence and exits with 3, also
for a wrong option, so that 2 from `gate` always means inconclusive. RLRF_DEBUG=1 shows tracebacks,
RLRF_LOG=json writes the log as JSON, RLRF_METRICS=127.0.0.1:9464 serves metrics.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence

import click

from harness.core.errors import UserError, is_out_of_memory
from harness.core.extras import name_missing_extra
from harness.core.log import say, structured
from rlrf.cli import (
    board,
    certify,
    doctor,
    eval,
    feedback_model,
    gate,
    judge,
    knowledge,
    noise,
    output,
    overlap,
    plan,
    report,
    reward_model,
    rlmec,
    score,
    simulate,
    slices,
    stages,
    status,
    stopping,
    tasks,
    train,
)
from rlrf.cli.output import ERROR

MAX_MESSAGE_CHARS = 4_000
# Commands that need the extra `train`.
TRAINING = {
    *("quickstart", "train", "train-step", "explore", "feedback", "reflect", "pairs"),
    *("reward-model", "feedback-model", "rlmec"),
}


def main() -> None:
    """Run `rlrf` as a program."""
    # Threads of OpenMP that spin while they wait made generation 60 times slower where processes
    # share cores; threads that sleep cost a third on an idle machine. Set it before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    stopping.listen()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code.

    The exit code stands if the result cannot be printed, because stdout is a closed pipe or a file
    on a full disk; stderr says so.
    """
    with structured(), output.forgiving() as out:
        code = _run(arguments)
        out.flush()
        if out.error:
            end = "All files were written." if code is None else f"The exit code {code} stands."
            say(
                f"rlrf: the result could not be written to standard output ({out.error}). {end}",
                "error",
            )
            return ERROR if code is None else code
    return code or 0


def _run(arguments: Sequence[str]) -> int | None:
    """Run a command line; return its exit code, or None if it succeeded and decides nothing."""
    try:
        if place := os.environ.get("RLRF_METRICS"):
            from rlrf.monitoring import serve_when_work_begins

            serve_when_work_begins(place)
        training = bool(arguments) and arguments[0] in TRAINING
        with name_missing_extra("train" if training else ""):
            code = cli.main(list(arguments), prog_name="rlrf", standalone_mode=False)
        return code if isinstance(code, int) else None
    except click.ClickException as error:
        message = io.StringIO()
        error.show(message)
        say(message.getvalue().rstrip(), "error")
        return ERROR
    except (KeyboardInterrupt, click.Abort, stopping.Stopped) as stop:
        return stopping.exit_code(stop)
    except UserError as error:
        _show_traceback()
        say(f"rlrf: {_shown(str(error))}", "error")
        return ERROR
    except Exception as error:
        _show_traceback()
        say(f"rlrf: {_unexpected(error)}", "error")
        return ERROR


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 3 error, 75 out of time, 129 hung up, 130 interrupted, 143 "
    "terminated; of gate 0 pass, 1 regression, 2 inconclusive; of overlap and `tasks check` 1 if "
    "something was found. After 75, 129, 130 and 143 run the same command again to resume.",
)
@click.version_option(package_name="rlrf-harness", prog_name="rlrf")
def cli() -> None:
    """Train with reflective feedback; measure, gate and record every iteration.

    \b
    rlrf quickstart                      M0 -> M1 -> M2 on the embedded benchmarks, no network
    rlrf train configs/one_gpu.yaml      the same on your model and tasks
    rlrf eval --model M --tasks gsm8k    evaluate a model; --judge FILE for what needs a judge
    rlrf gate BASELINE CANDIDATE         exit 0 pass, 1 regression, 2 inconclusive, 3 error
    rlrf report runs/quickstart          a page to look at
    """


for command in (
    train.quickstart,
    train.train,
    status.status,
    stages.explore,
    stages.feedback,
    stages.reflect,
    stages.pairs,
    stages.train_step,
    eval.eval_,
    score.score,
    slices.slices,
    judge.judge,
    plan.plan,
    gate.gate,
    certify.certify,
    noise.noise,
    simulate.simulate,
    board.board,
    report.report,
    reward_model.reward_model,
    rlmec.rlmec,
    feedback_model.feedback_model,
    knowledge.knowledge,
    overlap.overlap,
    tasks.tasks,
    doctor.doctor,
):
    cli.add_command(command)


def _unexpected(error: Exception) -> str:
    """Describe an error that is not for users, or that memory ran out."""
    if is_out_of_memory(error):
        return (
            "There is not enough memory. Free some, or lower how much runs at a time (max_batch, "
            "batch_size), and run the same command again to resume."
        )
    message = _shown((str(error).strip().splitlines() or ["no message"])[0])
    plugins = sys.modules.get("tasks.plugins")
    if plugins is not None and (place := plugins.failing_line(error)):
        return (
            f"a benchmark of yours failed, {type(error).__name__}: {message} ({place}).\n"
            "RLRF_DEBUG=1 shows the calls that led there."
        )
    return (
        f"something unexpected happened, {type(error).__name__}: {message}\n"
        "RLRF_DEBUG=1 shows where; `rlrf doctor` shows whether the installation is sound."
    )


def _shown(message: str) -> str:
    """Shorten an error, which may quote foreign text, and let nothing in it steer a terminal."""
    from harness.core.text import cut, visible

    shown, note = cut(visible(message), MAX_MESSAGE_CHARS)
    return f"{shown} ({note})" if note else shown


def _show_traceback() -> None:
    if os.environ.get("RLRF_DEBUG"):
        traceback.print_exc()
