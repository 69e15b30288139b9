"""Find and load the data of benchmarks, and split a benchmark that has only a test set.

Such a test set is divided into two halves, `gate` and `sealed`; training items are the user's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from harness.core.errors import UserError
from harness.core.hub import without_vain_retries
from harness.core.schema import digest

SPLITS = ("train", "gate", "sealed", "test")
SEED = 0

Half = Literal["gate", "sealed"]


def fold(text: str) -> str:
    """Normalise case and white space, by which two texts count as the same item."""
    return " ".join(text.casefold().split())


def halves(texts: Iterable[str], seed: Any = SEED) -> dict[str, Half]:
    """Assign folded texts to halves alternately, in the order of the sha256 of [`seed`, text]."""
    order = sorted({fold(text) for text in texts}, key=lambda folded: digest([seed, folded]))
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
            f"{path} contains gate or sealed items, {len(shared)} in all, such as "
            f"{shared[0][:80]!r}. Delete them from the file."
        )


def find_file(data: Path, folder: str, names: Iterable[str]) -> Path | None:
    """Return the first of the files that exists in `data` or in its `folder`."""
    places = [place / name for place in (data, data / folder) for name in names]
    return next((path for path in places if path.is_file()), None)


def hub_rows(
    name: str, config: str | None, splits: Sequence[str], todo: str
) -> list[tuple[str, dict[str, Any]]]:
    """Load (place, row) pairs from the Hugging Face hub; `place` is for error messages.

    Raises:
        UserError: the hub does not deliver; the message ends in `todo`.
    """
    import datasets

    try:
        with without_vain_retries():
            return [
                (f"{name} ({split}), row {number}", dict(row))
                for split in splits
                for number, row in enumerate(datasets.load_dataset(name, config, split=split), 1)
            ]
    except Exception as error:  # the hub's client raises many kinds
        raise UserError(
            f"Cannot load {name} from the Hugging Face hub ({error}). {todo}"
        ) from error
