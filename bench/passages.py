"""The embedded world with pages of its encyclopedia before each question, here or for a command.

    python bench/passages.py 128 rlrf train config.yaml --out run

trains on questions of about 128 tokens.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points

from harness.core.schema import Item
from rlrf.quickstart import seed_policy
from tasks.mini import world


@contextlib.contextmanager
def with_passages(tokens: int) -> Iterator[None]:
    """The embedded world with pages before each question, prompts of about `tokens` tokens.

    No page stands before questions of two splits.
    """
    from transformers import AutoTokenizer

    own, everyone = world.items, world.everyone()
    size = len(AutoTokenizer.from_pretrained(seed_policy()).encode(everyone[0].page()))

    @cache
    def read(task: str, split: str) -> list[Item]:
        names = list(world.SIZES)
        first = sum(world.SIZES[name] for name in names[: names.index(split)])
        pages = [one.page() for one in everyone[first : first + world.SIZES[split]]]
        items = []
        for item in own(task, split):
            begin = item.index * count
            found = [pages[(begin + i) % len(pages)] for i in range(count)]
            items.append(item.model_copy(update={"prompt": "\n".join([*found, item.prompt])}))
        return items

    count = round((tokens - 30) / size)
    world.items = lambda task, split: list(read(task, split))
    try:
        yield
    finally:
        world.items = own


def main() -> None:
    """Run a command of this environment in such a world."""
    tokens, name, *words = sys.argv[1:]
    (command,) = entry_points(group="console_scripts", name=name)
    sys.argv = [name, *words]
    with with_passages(int(tokens)):
        sys.exit(command.load()())


if __name__ == "__main__":
    main()
