"""Define what a reader of another tool's results is, and what users add to these results."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.core.errors import UserError
from harness.core.scored import ScoredEvaluation
from harness.core.text import listed, shorten
from harness.readers.align import align
from harness.readers.answers import Results, assemble, require_metrics

MAX_DEPTH = 2  # levels of folders below the named one
MAX_ENTRIES = 20_000

Side = dict[str, ScoredEvaluation]
"""Task -> evaluation of one model."""


@dataclass(frozen=True)
class Selection:
    """What results do not say themselves, and a user says.

    Attributes:
        item: the column of a table that names the item.
        metrics: the metrics to gate by; of a table, the columns to read.
        lower_is_better: metrics of which a lower value is better.
    """

    item: str | None = None
    metrics: tuple[str, ...] = ()
    lower_is_better: tuple[str, ...] = ()


class Reader(Protocol):
    """How results of one tool are found, read and compared."""

    @property
    def tool(self) -> str:
        """Name of the tool, with which the `engine` of its evaluations begins."""

    def find(self, path: Path, depth: int) -> list[Path]:
        """List the tool's files at `path`: the file itself, or files up to `depth` folders deep."""

    def load(
        self, path: Path, files: Sequence[Path], wanted: Collection[str] | None, how: Selection
    ) -> Side:
        """Load the files that were found at `path`; at least the `wanted` tasks, if given.

        Raises:
            UserError: a file is malformed or too large, or the files are not of one model.
        """

    def align(
        self, before: ScoredEvaluation, after: ScoredEvaluation, sources: tuple[str, str]
    ) -> tuple[ScoredEvaluation, ScoredEvaluation]:
        """Return two evaluations of a task with the same definitions of their metrics.

        Raises:
            UserError: they cannot be compared; the message says why, by the names in `sources`.
        """


@dataclass(frozen=True)
class FileReader:
    """A reader of a tool that keeps the results of one model in one file.

    Attributes:
        tool: its name in messages and in the evaluations.
        suffixes: how names of its files end, in lower case and without .gz.
        recognises: tells whether a file with such a name is of the tool, by its beginning.
        read: reads a file that is recognised: the results of one model, one per task.
        in_folders: whether files are found in a folder; else they have to be named themselves.
    """

    tool: str
    suffixes: tuple[str, ...]
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Selection], Iterable[Results]]
    in_folders: bool = True

    def find(self, path: Path, depth: int = MAX_DEPTH) -> list[Path]:
        if path.is_file():
            files: Iterable[Path] = [path]
        else:
            files = _files_below(path, min(depth, MAX_DEPTH)) if self.in_folders else []
        return [file for file in files if kind_of(file) in self.suffixes and self.recognises(file)]

    def load(
        self, path: Path, files: Sequence[Path], wanted: Collection[str] | None, how: Selection
    ) -> Side:
        side: Side = {}
        sources: dict[str, Path] = {}
        for file in files:
            for results in self.read(file, how):
                scored = assemble(results, how.lower_is_better)
                task = scored.evaluation.task
                if task in side:
                    raise UserError(
                        f"{path} holds two results of {shorten(task)}: {sources[task]} and {file}. "
                        "Name one of the two files."
                    )
                side[task], sources[task] = scored, file
        known = {name for scored in side.values() for name in scored.evaluation.definitions}
        require_metrics(known, how.lower_is_better, str(path))
        models = {scored.evaluation.model.id: sources[task] for task, scored in side.items()}
        if len(models) > 1:
            shown = listed(f"{file} of {shorten(model)}" for model, file in models.items())
            raise UserError(f"{path} holds results of several models: {shown}. Name one of them.")
        return side

    def align(
        self, before: ScoredEvaluation, after: ScoredEvaluation, sources: tuple[str, str]
    ) -> tuple[ScoredEvaluation, ScoredEvaluation]:
        return align(before, after, sources)


def kind_of(path: Path) -> str:
    """Return how a file's name ends, in lower case and without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _files_below(path: Path, depth: int) -> Iterator[Path]:
    seen = 0
    for place, folders, names in os.walk(path):
        folder = Path(place)
        seen += len(names) + len(folders)
        if seen > MAX_ENTRIES:
            raise UserError(f"{path} holds more than {MAX_ENTRIES:,} files: name one of them.")
        folders.sort()
        if len(folder.parts) - len(path.parts) >= depth:
            folders.clear()
        yield from (folder / name for name in sorted(names) if (folder / name).is_file())
