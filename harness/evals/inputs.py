"""The two sides of a comparison, read from whatever holds them.

A side is a folder of evaluations, the output folder of stock lm-eval, or a model on a leaderboard.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import tasks
from harness.board import Board
from harness.board.ranking import divide
from harness.board.rows import EvaluationEntry
from harness.core.errors import UserError
from harness.core.log import say
from harness.core.scored import ScoredEvaluation
from harness.evals import evaluation, lm_eval_results
from harness.gate import claims

LEDGER = "ledger.jsonl"


def load(
    folder: Path, name: str | None = None, wanted: Collection[str] | None = None
) -> dict[str, ScoredEvaluation]:
    """Task -> evaluation, from one side; `name` is that of a model, where it is a leaderboard.

    Of stock lm-eval's output, which may also be a results file, only the `wanted` tasks and groups
    of tasks are read, where they are named.

    Raises:
        UserError: nothing that can be compared is there, or it is malformed, changed or too large.
    """
    if (folder / LEDGER).exists():
        return _from_board(folder, name)
    ours = [path for at in ("", "*/") for path in folder.glob(f"{at}{evaluation.EVALUATION}")]
    # Next to evaluations of our own lm-eval's results are looked for no deeper than these.
    stock = lm_eval_results.find(folder, depth=1 if ours else lm_eval_results.MAX_DEPTH)
    if not stock and not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    if name is not None:
        raise UserError(
            f"There is no leaderboard in {folder}, where '{name}' could be. Leave out --name."
        )
    if stock:
        found = lm_eval_results.load(folder, wanted)
        if ours:
            raise UserError(
                f"{folder} holds evaluations of rlrf ({ours[0]}) and results of lm-eval "
                f"({stock[0]}). Name the folder of one of the two."
            )
        return found
    return _examined(evaluation.load(folder), folder)


def require_ours(side: Mapping[str, ScoredEvaluation], folder: Path) -> None:
    """Refuse a side that a candidate cannot be evaluated like.

    Raises:
        UserError: stock lm-eval wrote it, which asks in its own way.
    """
    if any(_stock(one) for one in side.values()):
        raise UserError(
            f"{folder} was written by stock lm-eval. Evaluate the candidate with lm-eval, too, and "
            "give its output folder as CANDIDATE."
        )


def load_both(
    baseline: Path,
    candidate: Path,
    name: str | None = None,
    wanted: Collection[str] | None = None,
) -> tuple[dict[str, ScoredEvaluation], dict[str, ScoredEvaluation]]:
    """Both sides, with lm-eval's metrics read alike; `name` is of the baseline, both as in `load`.

    Raises:
        UserError: as `load`; or only one of the two was made by stock lm-eval.
    """
    before, after = load(baseline, name, wanted), load(candidate, wanted=wanted)
    return read_alike(before, after, str(baseline), str(candidate))


def read_alike(
    baseline: Mapping[str, ScoredEvaluation],
    candidate: Mapping[str, ScoredEvaluation],
    baseline_name: str,
    candidate_name: str,
) -> tuple[dict[str, ScoredEvaluation], dict[str, ScoredEvaluation]]:
    """Read the metrics of two sides of stock lm-eval alike; others stay as they are.

    Raises:
        UserError: only one of the two was written by stock lm-eval.
    """
    before, after = dict(baseline), dict(candidate)
    for task in sorted(before.keys() & after.keys()):
        old, new = before[task], after[task]
        if _stock(old) and _stock(new):
            before[task], after[task] = _alike(old, new)
        elif _stock(old) or _stock(new):
            one, other = (
                (baseline_name, candidate_name) if _stock(old) else (candidate_name, baseline_name)
            )
            raise UserError(
                f"{one} was written by stock lm-eval and {other} was not, so that their {task} "
                "cannot be compared item by item. Evaluate both in the same way."
            )
    return before, after


def _from_board(folder: Path, name: str | None) -> dict[str, ScoredEvaluation]:
    board = Board(folder)
    standing, _ = divide(board.rows())
    entries = [row.entry for row in standing if isinstance(row.entry, EvaluationEntry)]
    names = list(dict.fromkeys(entry.name for entry in entries))
    if name not in names:
        said = f"has no model '{name}'" if name else "is a leaderboard: say which model is meant"
        raise UserError(f"{folder} {said}. It has {', '.join(names[:20]) or 'none'}; use --name.")
    # Of several evaluations of one task the latest one stands.
    latest = {entry.evaluation.task: entry for entry in entries if entry.name == name}
    for task, entry in sorted(latest.items()):
        same = {
            e.evaluation.identity for e in entries if (e.name, e.evaluation.task) == (name, task)
        }
        if len(same) > 1:
            say(
                f"{folder} has {len(same)} evaluations of {task} called {name}; the one added last "
                f"is taken ({entry.evaluation.split}, {entry.evaluation.items} items, weights "
                f"{(entry.evaluation.model.digest or 'unknown')[:12]})"
            )
    found = {
        task: ScoredEvaluation(entry.evaluation, board.scores(entry))
        for task, entry in sorted(latest.items())
    }
    return _examined(found, folder)


def _examined(found: dict[str, ScoredEvaluation], folder: Path) -> dict[str, ScoredEvaluation]:
    """The sides, once each was compared with the installed task and with its own numbers."""
    for task, side in found.items():
        installed = tasks.installed(task, side.evaluation.task_version)
        problems = claims.misstated(side.evaluation, side.scores)
        if installed is not None:
            defined = {metric.name: metric for metric in installed.metrics}
            problems += claims.redefined(side.evaluation, defined)
        if problems:
            raise UserError(
                f"The evaluation of {task} in {folder} cannot be used: {problems[0]}. Evaluate "
                "again."
            )
    return found


def _stock(side: ScoredEvaluation) -> bool:
    return side.evaluation.engine.startswith(lm_eval_results.ENGINE)


def _alike(
    old: ScoredEvaluation, new: ScoredEvaluation
) -> tuple[ScoredEvaluation, ScoredEvaluation]:
    one, other = lm_eval_results.alike(old, new)
    return replace(old, evaluation=one), replace(new, evaluation=other)
