"""What is to be held out stays held out: no training text may repeat a gate or sealed item."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from harness.core.schema import Item
from harness.gate.alarms import overlap

SHOWN = 3


def leaks(texts: Collection[str], held_out: Sequence[Item], words: int) -> str:
    """Which of the `held_out` items the training `texts` repeat, as a sentence; empty if none.

    An item is repeated where half of it stands in runs of `words` words that a text has too.
    """
    found = overlap(sorted(texts), [item.prompt for item in held_out], n=words)
    if not found:
        return ""
    items = [held_out[one.item] for one in found]
    named = ", ".join(f"{item.task} {item.split} {item.index}" for item in items[:SHOWN])
    more = ", ..." if len(items) > SHOWN else ""
    return f"training texts repeat {len(items)} of the held-out items: {named}{more}"
