"""Splits of a benchmark that was published as a test set alone: halves of it, and a user's own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from harness.core.errors import UserError
from harness.core.schema import digest

SPLITS = ("train", "gate", "sealed", "test")
SEED = 0

Half = Literal["gate", "sealed"]


def fold(text: str) -> str:
    """A text as splits are told apart by: neither case nor white space makes another one."""
    return " ".join(text.casefold().split())


def halves(texts: Iterable[str]) -> dict[str, Half]:
    """Folded text -> its half: by turns, in the order of the sha256 of [`SEED`, folded text]."""
    order = sorted({fold(text) for text in texts}, key=lambda folded: digest([SEED, folded]))
    return {folded: "sealed" if place % 2 else "gate" for place, folded in enumerate(order)}


def check_split(task: str, split: str) -> None:
    """See that there is such a split.

    Raises:
        UserError: there is not.
    """
    if split not in SPLITS:
        raise UserError(f"{task} has no split '{split}'; it has {', '.join(SPLITS)}.")


def check_apart(path: Path, texts: Iterable[str], measured: Iterable[str]) -> None:
    """See that nothing of a user's training file is what models are measured on.

    Raises:
        UserError: something is.
    """
    known = {fold(text) for text in measured}
    if shared := [text for text in texts if fold(text) in known]:
        raise UserError(
            f"{path} names {len(shared)} that models are measured on, such as "
            f"{shared[0][:80]!r}; delete them there."
        )
