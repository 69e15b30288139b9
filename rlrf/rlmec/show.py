"""Show RLMEC's training examples: each token's reward, and the edits of the rewrite."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import UserError
from harness.core.files import parse, read_json, read_records
from harness.core.text import visible
from harness.render.html.rewrites import Rewritten, Token
from rlrf.objectives.rlmec import RewriteExample
from rlrf.rlmec.rewriter import Agreement

if TYPE_CHECKING:
    from rich.text import Text

REWRITES = Path("rewrites", "rewrites.jsonl")
MEASURED = Path("agreement", "agreement.json")

EARNS, LOSES, EDITED = ("[+", "+]"), ("[-", "-]"), ("{+", "+}")
COLOURS = {EARNS: "green", LOSES: "red", EDITED: "bold cyan"}


def load(place: Path) -> tuple[list[RewriteExample], Agreement | None]:
    """Read the rewrites of an iteration's folder `RUN/iter_k`, or of a file.

    Also reads the rewriter's agreement, if the folder has it.

    Raises:
        UserError: there are no rewrites, or the file is not RLMEC's.
    """
    path = place / REWRITES if place.is_dir() else place
    if not path.is_file():
        raise UserError(
            f"{place} has no {REWRITES}. Name an iteration of an RLMEC run, such as RUN/iter_1."
        )
    measured = place / MEASURED
    agreement = parse(Agreement, read_json(measured), str(measured)) if measured.is_file() else None
    return read_records(path, RewriteExample), agreement


def choose(
    rewrites: Sequence[RewriteExample], *, task: str | None = None, right: bool | None = None
) -> list[RewriteExample]:
    """Select rewrites of `task`, and of responses that are `right` or not; None selects all.

    Raises:
        UserError: the task has no rewrites.
    """
    tasks = sorted({one.task for one in rewrites})
    if task is not None and task not in tasks:
        raise UserError(f"There are no rewrites of '{task}', only of {', '.join(tasks)}.")
    return [one for one in rewrites if task in (None, one.task) and right in (None, one.right)]


def text(example: RewriteExample) -> Text:
    """Format a response and its rewrite for a terminal.

    [+tokens+] have a positive reward, [-tokens-] a negative one, {+tokens+} are edits; a strong
    reward has a strong colour.
    """
    from rich.text import Text

    shown = Text()
    shown.append(
        f"{example.task} {example.index}, {'right' if example.right else 'wrong'}\n", "bold"
    )
    shown.append(f"{visible(example.prompt)}\n", "dim")
    strongest = max([abs(reward) for reward in example.rewards], default=0.0)
    signs = [EARNS if r > 0 else LOSES if r < 0 else None for r in example.rewards]
    strong = [2 * abs(reward) > strongest for reward in example.rewards]
    _append(shown, example.tokens, signs, strong)
    shown.append("\n")
    shown.append("rewritten\n", "dim")
    edits = [EDITED if edited else None for edited in example.edited]
    _append(shown, example.rewrite_tokens, edits, example.edited)
    shown.append("\n")
    return shown


def _append(
    shown: Text,
    tokens: Sequence[str],
    marks: Sequence[tuple[str, str] | None],
    strong: Sequence[bool],
) -> None:
    """Append the tokens, with one pair of marks around consecutive tokens of the same mark."""
    rows = zip(tokens, marks, strong, strict=True)
    for mark, run in itertools.groupby(rows, key=lambda row: row[1]):
        before, after = mark or ("", "")
        shown.append(before, "dim")
        for token, _, is_strong in run:
            style = COLOURS[mark] if mark else ""
            shown.append(visible(token), f"{style} reverse" if mark and is_strong else style)
        shown.append(after, "dim")


def page(rewrites: Sequence[RewriteExample], count: int, agreement: Agreement | None) -> str:
    """Write a self-contained HTML page of `rewrites`, which are some of `count`."""
    from harness.render.html import rewrites as render

    return render(
        [
            Rewritten(
                task=one.task,
                index=one.index,
                prompt=one.prompt,
                right=one.right,
                response=[
                    Token(text, reward=reward)
                    for text, reward in zip(one.tokens, one.rewards, strict=True)
                ],
                rewrite=[
                    Token("".join(text for text, _ in run), edited=edited)
                    for edited, run in itertools.groupby(
                        zip(one.rewrite_tokens, one.edited, strict=True), key=lambda row: row[1]
                    )
                ],
            )
            for one in rewrites
        ],
        count,
        [
            (task, name, result)
            for task, metrics in (agreement.by_task if agreement else {}).items()
            for name, result in metrics.items()
        ],
    )
