"""Split a benchmark that has only a test set: two halves, and a user's own training items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from harness.core.errors import UserError
from harness.core.schema import digest

SPLITS = ("train", "gate", "sealed", "test")
SEED = 0

Half = Literal["gate", "sealed"]


def fold(text: str) -> str:
    """Normalise case and white space, by which two texts count as the same item."""
    return " ".join(text.casefold().split())


def halves(texts: Iterable[str]) -> dict[str, Half]:
    """Assign folded texts to halves alternately, in the order of the sha256 of [`SEED`, text]."""
    order = sorted({fold(text) for text in texts}, key=lambda folded: digest([SEED, folded]))
    return {folded: "sealed" if place % 2 else "gate" for place, folded in enumerate(order)}


def check_split(task: str, split: str, splits: Sequence[str] = SPLITS) -> None:
    """Refuse an unknown split.

    Raises:
        UserError: `split` is unknown.
    """
    if split not in splits:
        raise UserError(f"{task} has no split '{split}'; it has {', '.join(splits)}.")


def check_apart(path: Path, texts: Iterable[str], measured: Iterable[str]) -> None:
    """Refuse training files that contain gate or sealed items.

    Raises:
        UserError: an item of the training file is among those that models are measured on.
    """
    known = {fold(text) for text in measured}
    if shared := [text for text in texts if fold(text) in known]:
        raise UserError(
            f"{path} names {len(shared)} that models are measured on, such as "
            f"{shared[0][:80]!r}; delete them there."
        )
