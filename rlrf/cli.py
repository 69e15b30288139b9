"""The command line: each command is a thin shell over a function that a notebook can call.

Results go to stdout, progress and logs to stderr. Every error is a sentence and exits 3, wrong
options included, so that for `gate` 2 always means inconclusive. RLRF_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.errors import UserError

if TYPE_CHECKING:
    from rlrf.result import RunResult

ERROR, INTERRUPTED = 3, 130
EXIT = {"pass": 0, "fail": 1, "inconclusive": 2}

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
as_json = click.option("--json", "json_", is_flag=True, help="Print JSON for programs.")


def main() -> None:
    """The entry point of `rlrf`."""
    # Where cores are shared, OpenMP threads that spin while they wait made generation 60 times
    # slower; threads that sleep cost a third on an idle machine. To be set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code."""
    try:
        code = cli.main(list(arguments), prog_name="rlrf", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return ERROR
    except (KeyboardInterrupt, click.Abort):
        _say("Interrupted. Nothing half done was kept; the same command resumes a run.")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter must not fail on flushing it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR
    except UserError as error:
        _show_traceback()
        _say(f"rlrf: {error}")
        return ERROR
    except Exception as error:
        _show_traceback()
        said = (str(error).strip().splitlines() or ["no message"])[0]
        _say(
            f"rlrf: something unexpected happened, {type(error).__name__}: {said}\n"
            "RLRF_DEBUG=1 shows where; `rlrf doctor` shows whether the installation is sound."
        )
        return ERROR


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rlrf-harness", prog_name="rlrf")
def cli() -> None:
    """Train with reflective feedback; measure, gate and record every iteration.

    \b
    rlrf quickstart                      M0 -> M1 -> M2 on the embedded benchmarks, no network
    rlrf train configs/one_gpu.yaml      the same on your model and tasks
    rlrf gate BASELINE CANDIDATE         exit 0 pass, 1 regression, 2 inconclusive, 3 error
    """


@cli.command()
@click.option("--out", type=FOLDER, default=Path("runs/quickstart"), show_default=True)
@click.option("--fresh", is_flag=True, help="Delete the run in OUT and start over.")
@as_json
def quickstart(out: Path, fresh: bool, json_: bool) -> None:
    """Train, gate and publish on the embedded benchmarks: a few minutes on two cores.

    \b
    rlrf quickstart
    rlrf quickstart --fresh --out runs/again
    """
    from rlrf import quickstart as package

    _show_run(package.quickstart(out, fresh=fresh), json_)


@cli.command()
@click.argument("config", type=FILE)
@click.option("--out", type=FOLDER, help="The run's folder.  [default: runs/NAME-OF-CONFIG]")
@click.option("--fresh", is_flag=True, help="Delete the run in OUT and start over.")
@as_json
def train(config: Path, out: Path | None, fresh: bool, json_: bool) -> None:
    """Train by CONFIG (YAML); a run that exists is resumed.

    \b
    rlrf train configs/cpu.yaml
    rlrf train configs/one_gpu.yaml --out runs/first
    """
    from rlrf import loop
    from rlrf.config import load

    result = loop.train(load(config), out or Path("runs") / config.stem, fresh=fresh)
    _show_run(result, json_)


def _show_run(result: RunResult, json_: bool) -> None:
    from rlrf.result import markdown

    _print_json(result.model_dump(mode="json")) if json_ else print(markdown(result))


@cli.command("eval")
@click.option("--model", required=True, help="Folder or hub id.")
@click.option("--tasks", "names", required=True, help="One or more of `rlrf tasks`, by comma.")
@click.option("--engine", type=click.Choice(["hf"]), default="hf", show_default=True)
@click.option("--adapter", type=FOLDER, help="LoRA adapter on the model.")
@click.option("--split", help="Split of the tasks.  [default: the task's own]")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first items.")
@click.option("--data", type=FOLDER, help="Where the benchmark's data lies.")
@click.option("--num-fewshot", type=click.IntRange(min=0), help="Solved examples in the prompt.")
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@click.option("--max-batch", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=FOLDER, help="Write an evaluation folder, for `gate` and `board`.")
@as_json
def eval_(
    *,
    model: str,
    names: str,
    engine: str,
    adapter: Path | None,
    split: str | None,
    limit: int | None,
    data: Path | None,
    num_fewshot: int | None,
    device: str,
    dtype: str,
    max_batch: int,
    seed: int,
    out: Path | None,
    json_: bool,
) -> None:
    """Evaluate a model.

    \b
    rlrf eval --model runs/quickstart/iter_1/train/model --tasks mini_gsm8k --split gate
    rlrf eval --model Qwen/Qwen2.5-0.5B-Instruct --tasks gsm8k --limit 200 --out evaluations/qwen
    """
    import tasks
    from harness.engines.hf import HFEngine
    from harness.evaluate import evaluate

    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        tasks.load(name)
    loaded = HFEngine(model, adapter=adapter, device=device, dtype=dtype, max_batch=max_batch)
    scored = evaluate(
        loaded,
        wanted,
        split=split,
        limit=limit,
        data=data,
        num_fewshot=num_fewshot,
        out=out,
        seed=seed,
    )
    _show_evaluations(scored, out, json_)


@cli.command()
@click.argument("task")
@click.argument("responses", type=FILE)
@click.option("--split", help="Split of the task.  [default: the task's own]")
@click.option("--data", type=FOLDER, help="Where the benchmark's data lies.")
@click.option("--judgments", type=FILE, help='Recorded judge replies: {"id", "reply"} a line.')
@click.option("--facts", type=FILE, help='Verified facts: {"id", "response", "facts"} a line.')
@click.option("--model-id", default="recorded", show_default=True, help="Who answered.")
@click.option("--out", type=FOLDER, help="Write an evaluation folder, for `gate` and `board`.")
@as_json
def score(
    *,
    task: str,
    responses: Path,
    split: str | None,
    data: Path | None,
    judgments: Path | None,
    facts: Path | None,
    model_id: str,
    out: Path | None,
    json_: bool,
) -> None:
    """Score recorded RESPONSES to TASK; no model is needed.

    RESPONSES is JSONL, one {"id", "response"} a line; the id is the item's index in its split.

    \b
    rlrf score gsm8k answers.jsonl --data data/gsm8k
    rlrf score just_eval answers.jsonl --judgments judge.jsonl --out evaluations/mine
    """
    from harness import replay

    scored = replay.score(
        task,
        responses,
        split=split,
        data=data,
        judgments=judgments,
        facts=facts,
        model_id=model_id,
        out=out,
    )
    _show_evaluations({scored.evaluation.task: scored}, out, json_)


@cli.command()
@click.argument("baseline", type=FOLDER)
@click.argument("candidate", type=FOLDER)
@click.option("--policy", type=FILE, help="YAML or JSON.  [default: see above]")
@click.option("--markdown", "markdown_file", type=FILE, help="Write the decision as Markdown.")
@click.option("--junit", "junit_file", type=FILE, help="Write the decision as JUnit XML.")
@as_json
def gate(
    *,
    baseline: Path,
    candidate: Path,
    policy: Path | None,
    markdown_file: Path | None,
    junit_file: Path | None,
    json_: bool,
) -> int:
    """Decide whether the evaluations in CANDIDATE are no worse than those in BASELINE.

    Exits 0 pass, 1 regression, 2 inconclusive, 3 error. Without a policy, the primary metric of
    every task is critical: it may not lose 5 % of its range, at level .05.

    \b
    rlrf gate evaluations/m0 evaluations/m1
    rlrf gate evaluations/m0 evaluations/m1 --policy policy.yaml --junit gate.xml
    """
    from harness import evaluation
    from harness.gate import decide
    from harness.render import junit, markdown
    from harness.settings import load_policy
    from harness.store import write_text
    from rlrf.config import default_policy

    before, after = evaluation.load(baseline), evaluation.load(candidate)
    primary = {
        task: metric
        for task, one in before.items()
        for metric in one.evaluation.definitions.values()
        if metric.primary
    }
    decision = decide(load_policy(policy) if policy else default_policy(primary), before, after)
    text = markdown.decision(decision)
    if markdown_file:
        write_text(markdown_file, text)
    if junit_file:
        write_text(junit_file, junit.decision(decision))
    _print_json(decision.model_dump(mode="json")) if json_ else print(text)
    return EXIT[decision.verdict]


@cli.group()
def board() -> None:
    """Leaderboards: folders that are appended to, never changed, and can be recomputed.

    \b
    rlrf board add leaderboards/mine evaluations/m1 --name M1
    rlrf board verify leaderboards/mine
    rlrf board render leaderboards/mine > board.md
    """


@board.command("add")
@click.argument("folder", metavar="BOARD", type=FOLDER)
@click.argument("evaluations", type=FOLDER)
@click.option("--name", help="What the model is called on the board.  [default: its id]")
@click.option("--run", "run_name", default="manual", show_default=True, help="Which run it is of.")
@as_json
def board_add(
    folder: Path, evaluations: Path, name: str | None, run_name: str, json_: bool
) -> None:
    """Add the evaluations of a folder to BOARD.

    \b
    rlrf board add leaderboards/mine evaluations/m1 --name M1
    """
    from harness import evaluation
    from harness.leaderboard import Board

    digests = {
        task: Board(folder).add_evaluation(one, name or one.evaluation.model.id, run_name)
        for task, one in evaluation.load(evaluations).items()
    }
    if json_:
        _print_json(digests)
    else:
        for task, row in digests.items():
            print(f"{task}: row {row[:12]}")


@board.command("verify")
@click.argument("folder", metavar="BOARD", type=FOLDER)
@as_json
def board_verify(folder: Path, json_: bool) -> int:
    """Recompute every row of BOARD from its scores; exits 3 if anything does not hold.

    \b
    rlrf board verify leaderboards/mine
    """
    from harness.leaderboard import Board

    problems = Board(folder).verify()
    if json_:
        _print_json({"problems": problems})
    else:
        print("\n".join(problems) or f"{folder} is sound: every row was recomputed.")
    return ERROR if problems else 0


@board.command("render")
@click.argument("folder", metavar="BOARD", type=FOLDER)
@click.option("--svg", type=FILE, help="Draw the models on a split as a picture, too.")
@click.option("--split", default="sealed", show_default=True, help="The split that is drawn.")
@as_json
def board_render(folder: Path, svg: Path | None, split: str, json_: bool) -> None:
    """Print BOARD as Markdown tables, or its rows as JSON.

    \b
    rlrf board render leaderboards/mine > board.md
    rlrf board render leaderboards/mine --svg board.svg --split gate
    """
    from harness.leaderboard import Board
    from harness.render import markdown, plot
    from harness.store import write_bytes

    rows = Board(folder).rows()
    if svg:
        write_bytes(svg, plot.board(rows, split))
    if json_:
        _print_json([row.model_dump(mode="json") for row in rows])
    else:
        print(markdown.board(rows))


@cli.command("tasks")
@click.option("--path", "path_only", is_flag=True, help="Print the folder for lm_eval.")
@as_json
def tasks_(path_only: bool, json_: bool) -> None:
    """List the benchmarks.

    \b
    rlrf tasks
    lm_eval run --include_path $(rlrf tasks --path) --tasks mini_gsm8k ...
    """
    import tasks
    from rlrf.result import table

    if path_only:
        print(tasks.FOLDER)
        return
    found = [tasks.load(name) for name in tasks.names()]
    if json_:
        _print_json(
            [
                {
                    "name": task.name,
                    "version": task.version,
                    "splits": list(task.splits),
                    "metrics": [metric.model_dump(mode="json") for metric in task.metrics],
                }
                for task in found
            ]
        )
        return
    rows = [[task.name, task.primary.name, ", ".join(task.splits), task.version] for task in found]
    print(table([["task", "primary metric", "splits", "version"], *rows]))


@cli.command()
@as_json
def doctor(json_: bool) -> int:
    """Say what is installed, what is missing, and how to get it; exits 3 if something must be.

    \b
    rlrf doctor
    """
    from rlrf.doctor import examine, markdown

    findings = examine()
    if json_:
        _print_json([finding.model_dump(mode="json") for finding in findings])
    else:
        print(markdown(findings))
    return 0 if all(finding.ok for finding in findings) else ERROR


def _show_evaluations(scored: dict[str, Any], out: Path | None, json_: bool) -> None:
    from rlrf.result import evaluations

    found = [one.evaluation for one in scored.values()]
    if json_:
        _print_json([one.model_dump(mode="json") for one in found])
    else:
        print(evaluations(found))
    if out is None:
        _say("Not kept: name a folder with --out to gate or publish this.")


def _show_traceback() -> None:
    if os.environ.get("RLRF_DEBUG"):
        traceback.print_exc()


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
