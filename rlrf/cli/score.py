"""`rlrf score`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.core.errors import UserError
from rlrf.cli import options
from rlrf.cli.eval import print_evaluations
from rlrf.cli.options import FILE, FOLDER, PATH


@click.command()
@click.argument("task")
@click.argument("responses", type=PATH)
@options.judge_file
@click.option("--judgments", type=FILE, help='Recorded judge replies, JSONL: {"id", "reply"}.')
@options.bundle(
    "given",
    click.option("--split", help="Split of the task.  [default: the task's own]"),
    options.data,
    click.option("--facts", type=FILE, help='Verified facts, JSONL: {"id", "response", "facts"}.'),
    click.option("--model-id", help="Name of the model that answered.  [default: recorded]"),
    click.option(
        "--out", type=FOLDER, help="Write the evaluation to OUT/TASK, for `gate`, `board`."
    ),
)
@options.include_path
@options.repeat_sizes
@options.as_json
def score(
    task: str,
    responses: Path,
    judge_file: Path | None,
    judgments: Path | None,
    given: dict[str, Any],
    sizes: str | None,
) -> None:
    """Score saved RESPONSES to TASK; no model is needed.

    RESPONSES is JSONL, one {"id", "response"} per line, where the id is the item's index in its
    split; or the folder of an evaluation, whose responses are scored again. A response is cut at
    the task's first stop string, as during generation.

    Number several responses per item by "repeat", from 0: the table then shows pass@k, pass^k and
    maj@k, as `rlrf eval --repeats` does.

    \b
    rlrf score gsm8k answers.jsonl --data data/gsm8k
    rlrf score gsm8k eight_answers_each.jsonl --k 1,4,8
    rlrf score just_eval answers.jsonl --judgments replies.jsonl --out evaluations/mine
    rlrf score capitals answers.jsonl --include-path benchmarks --split gate
    rlrf score just_eval evaluations/mine/just_eval --judge other.yaml --out evaluations/other
    """
    import rlrf
    from harness.evals.score import RecordedReplies
    from harness.judges.config import load_judging

    k = options.read_sizes(sizes)
    judging = load_judging(judge_file)
    if judging.judge is not None and judgments:
        raise UserError("Name either a judge or recorded replies, not both.")
    judge = RecordedReplies(judgments) if judgments else judge_file
    scored = rlrf.score(judging.task(task), responses, judge=judge, **given)
    print_evaluations({scored.evaluation.task: scored}, given["out"], k)
