"""Compare the texts of two sources: what training texts share with the items of a benchmark."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from harness.core.errors import UserError
from harness.core.schema import Record
from harness.core.text import cut, listed, one_line, plural, quote
from harness.evals.checked_tasks import CallFailedError, CheckedTask, Entry, checked_tasks
from harness.evals.stock_tasks import UnknownBenchmarkError, find_benchmarks
from harness.evals.texts import Row, Texts, find_file_texts
from harness.gate.contamination import Place, SharedWords, excerpt, shared_words
from harness.gate.near_duplicates import NearDuplicate, near_duplicates

MAX_ITEM_CHARS = 200_000_000  # of all items together, which are held in memory
MAX_SHOWN_CHARS = 400  # of an excerpt
MAX_LABEL_CHARS = 120


class Match(Record):
    """An item that overlaps with a training text."""

    item: str = Field(description="where the item stands in EVAL")
    training: str = Field(description="where the training text stands in TRAIN")
    kind: Literal["shared words", "near-duplicate"]
    words: int = Field(description="length of the longest run of shared words; 0: near-duplicate")
    share: float = Field(
        description="share of the item's words in runs that TRAIN has, or the similarity"
    )
    item_text: str = Field(description="the item around the match")
    training_text: str = Field(description="the training text around the match")


class Overlap(Record):
    """What two sources share."""

    train: str
    eval: str
    words: int = Field(description="least number of words in a row that count as shared")
    items: int
    training_texts: int
    overlapping: int = Field(description="items with a match of any kind")
    share: float
    with_shared_words: int
    with_near_duplicate: int
    common: int = Field(description="n-grams left out because more than `common_limit` items share")
    common_limit: int
    common_example: str = ""
    of_a_template: int = Field(
        description="texts that so many items resemble that near-duplicates say nothing"
    )
    matches: list[Match] = Field(description="longest shared words first, then near-duplicates")

    def text(self, most: int) -> str:
        """Describe the overlap for a terminal, with the first `most` matches of each kind."""
        lines = [
            f"{self.overlapping} of {self.items} items of {one_line(self.eval)} overlap with "
            f"{self.training_texts} texts of {one_line(self.train)}: {self.with_shared_words} by "
            f"{self.words} words in a row or more, {self.with_near_duplicate} as near-duplicates."
        ]
        if self.common:
            lines.append(
                f"Left out as boilerplate: {self.common} {plural('passage', self.common)} of "
                f"{self.words} words that more than "
                f"{self.common_limit} items share, such as {quote(self.common_example)}. Compare "
                "them too with a larger --common."
            )
        if self.of_a_template:
            lines.append(
                f"{self.of_a_template} texts resemble more than {self.common_limit} others: "
                "near-duplicates of them were not searched."
            )
        for kind in ("shared words", "near-duplicate"):
            matches = [match for match in self.matches if match.kind == kind]
            for match in matches[:most]:
                how = f"{match.words} words in a row" if match.words else "nearly the same"
                lines += [
                    f"\n{one_line(match.item)} and {one_line(match.training)}: {how} "
                    f"({match.share:.0%})",
                    f"  EVAL   {one_line(match.item_text)}",
                    f"  TRAIN  {one_line(match.training_text)}",
                ]
            if len(matches) > most:
                lines.append(f"\nand {len(matches) - most} more ({kind}): --json lists all.")
        return "\n".join(lines)


def open_texts(
    source: str, *, fields: Sequence[str] = (), data: Path | None = None, training: bool = False
) -> Texts:
    """Open a file, an evaluation folder, a run, or a benchmark, such as `gsm8k:train`.

    Args:
        data: folder or file of the data of this package's benchmarks.
        training: of a benchmark that is named without a split, take the training split, not the
            split that is evaluated.

    Raises:
        UserError: there is neither such a file nor such a benchmark or split.
    """
    path = Path(source)
    if path.exists():
        return Texts(source, find_file_texts(path), fields)
    name, _, split = source.partition(":")
    try:
        parts = [
            checked for task in find_benchmarks([name]) for checked in checked_tasks(task, data)
        ]
    except UnknownBenchmarkError as error:
        raise UserError(f"There is no file or folder {quote(source)}. {error}") from error
    entries = [_entries(task, split, training) for task in parts]
    rows = [
        (f"{task.name} {entry.label}", {"prompt": entry.text, "reference": entry.gold})
        for task, of_task in zip(parts, entries, strict=True)
        for entry in of_task
    ]
    return Texts(source, lambda: iter(rows), fields)


def _entries(task: CheckedTask, split: str, training: bool) -> list[Entry]:
    wanted = split or (task.evaluated if not training else next(iter(task.training), ""))
    if wanted not in task.splits:
        missing = f"split {quote(wanted)}" if wanted else "training split"
        raise UserError(
            f"{task.name} has no {missing}. Name one of its splits, such as "
            f"{task.name}:{task.evaluated}; it has {listed(task.splits)}."
        )
    try:
        return task.entries(wanted)
    except CallFailedError as error:
        raise UserError(f"{task.name} cannot be read: {error}.") from error


def find_overlap(
    train: Texts, eval_: Texts, *, words: int = 13, limit: int | None = None
) -> Overlap:
    """Find the items of `eval_` that share `words` in a row with `train`, or are nearly in it.

    Raises:
        UserError: a source cannot be read, or the items do not fit in memory.
    """
    items = _load(eval_)
    texts = [list(item.texts.values()) for item in items]
    count = itertools.count()
    shared = shared_words(_counted(train, count), texts, n=words, limit=limit)
    similar = near_duplicates((list(row.texts.values()) for row in train), texts, limit=limit)
    wanted = {run.training.row for run in shared.shared}
    wanted |= {pair.training_row for pair in similar.pairs}
    training = {number: row for number, row in enumerate(train) if number in wanted}
    matches = [_shared_match(run, items, training) for run in _longest_first(shared.shared)]
    nearest = sorted(similar.pairs, key=lambda pair: -pair.similarity)
    matches += [_similar_match(pair, items, training) for pair in nearest]
    by_words = {run.item.row for run in shared.shared}
    overlapping = by_words | {pair.item for pair in similar.pairs}
    example = shared.example
    return Overlap(
        train=train.name,
        eval=eval_.name,
        words=words,
        items=len(items),
        training_texts=next(count),
        overlapping=len(overlapping),
        share=len(overlapping) / len(items),
        with_shared_words=len(by_words),
        with_near_duplicate=len(similar.pairs),
        common=shared.common,
        common_limit=shared.limit,
        common_example=_around(texts[example.row][example.text], example) if example else "",
        of_a_template=similar.of_a_template,
        matches=matches,
    )


def _load(source: Texts) -> list[Row]:
    rows, chars = [], 0
    for row in source:
        rows.append(row)
        chars += sum(map(len, row.texts.values()))
        if chars > MAX_ITEM_CHARS:
            raise UserError(
                f"{source.name} has more than {MAX_ITEM_CHARS:,} characters, and the items are "
                "held in memory. Compare a part of it, or name the fields to compare with --field."
            )
    return rows


def _counted(source: Texts, count: Iterator[int]) -> Iterator[list[str]]:
    for row in source:
        next(count)
        yield list(row.texts.values())


def _longest_first(shared: list[SharedWords]) -> list[SharedWords]:
    return sorted(shared, key=lambda run: (-run.item.words, -run.share, run.item.row))


def _shared_match(run: SharedWords, items: list[Row], training: Mapping[int, Row]) -> Match:
    item, row = items[run.item.row], training[run.training.row]
    return Match(
        item=_label(item),
        training=_label(row),
        kind="shared words",
        words=run.item.words,
        share=run.share,
        item_text=_around(_text(item, run.item.text), run.item),
        training_text=_around(_text(row, run.training.text), run.training),
    )


def _similar_match(pair: NearDuplicate, items: list[Row], training: Mapping[int, Row]) -> Match:
    item, row = items[pair.item], training[pair.training_row]
    return Match(
        item=_label(item),
        training=_label(row),
        kind="near-duplicate",
        words=0,
        share=pair.similarity,
        item_text=_clip(_text(item, pair.text)),
        training_text=_clip(_text(row, pair.training_text)),
    )


def _text(row: Row, number: int) -> str:
    return list(row.texts.values())[number]


def _label(row: Row) -> str:
    return cut(row.label, MAX_LABEL_CHARS)[0]


def _around(text: str, place: Place) -> str:
    return _clip(excerpt(text, place))


def _clip(text: str) -> str:
    shown, left_out = cut(text, MAX_SHOWN_CHARS)
    return f"{shown} ..." if left_out else shown
