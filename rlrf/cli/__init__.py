"""The command line: each command is a thin shell over a function that a notebook can call.

Results go to stdout, progress and logs to stderr. Every error is a sentence and exits 3, wrong
options included, so that for `gate` 2 always means inconclusive. RLRF_DEBUG=1 shows tracebacks,
RLRF_LOG=json makes a log that programs read, RLRF_METRICS=127.0.0.1:9464 serves metrics.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence

import click

from harness.core.errors import UserError, is_out_of_memory
from harness.core.log import say, structured
from rlrf.cli import (
    board,
    doctor,
    eval,
    feedback_model,
    gate,
    judge,
    knowledge,
    report,
    reward_model,
    rlmec,
    simulate,
    stages,
    status,
    stopping,
    streams,
    train,
)
from rlrf.cli.common import ERROR

MAX_MESSAGE = 4_000  # characters


def main() -> None:
    """The entry point of `rlrf`."""
    # Where cores are shared, OpenMP threads that spin while they wait made generation 60 times
    # slower; threads that sleep cost a third on an idle machine. To be set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    stopping.listen()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code.

    A verdict stands where it cannot be shown: a full disk or a closed pipe behind stdout is said
    on stderr.
    """
    with structured(), streams.forgiving() as out:
        code = _run(arguments)
        out.flush()
        if out.error:
            end = (
                "What was written to files is there."
                if code is None
                else f"The exit code {code} stands."
            )
            say(
                f"rlrf: the result could not be written to standard output ({out.error}). {end}",
                "error",
            )
            return ERROR if code is None else code
    return code or 0


def _run(arguments: Sequence[str]) -> int | None:
    """The exit code of a command line; None of one that ended well and decides nothing."""
    try:
        if place := os.environ.get("RLRF_METRICS"):
            from rlrf.monitoring import serve_when_work_begins

            serve_when_work_begins(place)
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
        say(f"rlrf: {_said(str(error))}", "error")
        return ERROR
    except Exception as error:
        _show_traceback()
        say(f"rlrf: {_unexpected(error)}", "error")
        return ERROR


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 3 error, 75 out of time, 129 hung up, 130 interrupted, 143 "
    "terminated; of gate 0 pass, 1 regression, 2 inconclusive. After 75, 129, 130 and 143 run the "
    "same command again to resume.",
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
    eval.score,
    eval.slices,
    judge.judge,
    gate.plan,
    gate.gate,
    simulate.certify,
    simulate.noise,
    simulate.simulate,
    board.board,
    report.report,
    reward_model.reward_model,
    rlmec.rlmec,
    feedback_model.feedback_model,
    knowledge.knowledge,
    eval.tasks_,
    doctor.doctor,
):
    cli.add_command(command)


def _unexpected(error: Exception) -> str:
    """A sentence on what nobody foresaw, and on memory, which may run out anywhere."""
    if is_out_of_memory(error):
        return (
            "There is not enough memory. Free some, or lower what is done at a time (max_batch, "
            "batch_size), and run the same command again: it goes on."
        )
    said = _said((str(error).strip().splitlines() or ["no message"])[0])
    return (
        f"something unexpected happened, {type(error).__name__}: {said}\n"
        "RLRF_DEBUG=1 shows where; `rlrf doctor` shows whether the installation is sound."
    )


def _said(message: str) -> str:
    """What an error says, which may quote what others wrote: nothing in it steers a terminal."""
    from harness.core.text import cut, visible

    shown, note = cut(visible(message), MAX_MESSAGE)
    return f"{shown} ({note})" if note else shown


def _show_traceback() -> None:
    if os.environ.get("RLRF_DEBUG"):
        traceback.print_exc()
