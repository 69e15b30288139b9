"""What is to be held out stays held out: no training text may repeat a gate or sealed item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.gate.alarms import overlap
from harness.schema import Item
from rlrf.pairs import Pair

SHOWN = 3


def leaks(
    pairs: Sequence[Pair], asked: Mapping[str, Item], held_out: Sequence[Item], words: int
) -> str:
    """Which of the `held_out` items the texts of `pairs` repeat, as a sentence; empty if none.

    `asked` maps digests to the items that the pairs are about. An item is repeated where half of
    it stands in runs of `words` words that a prompt or response has too.
    """
    prompts = {asked[pair.item].prompt for pair in pairs}
    responses = {text for pair in pairs for text in (pair.chosen, pair.rejected)}
    found = overlap(sorted(prompts | responses), [item.prompt for item in held_out], n=words)
    if not found:
        return ""
    items = [held_out[one.item] for one in found]
    named = ", ".join(f"{item.task} {item.split} {item.index}" for item in items[:SHOWN])
    more = ", ..." if len(items) > SHOWN else ""
    return f"training texts repeat {len(items)} of the held-out items: {named}{more}"
