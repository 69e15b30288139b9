"""What a feedback model is asked about, and what it learns from: answers that were judged."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import UserError
from harness.core.files import read_records
from harness.core.schema import Feedback, Item, digest
from rlrf.feedback import Judged
from tasks.task import Task

RECORDS = "iter_*/*feedback/records.jsonl"  # in a run: of explored responses and of refinements


@dataclass(frozen=True)
class Subject:
    """An answer to be judged; `reference` is what it is to be compared with, "" if nothing."""

    item: Item
    response: str
    reference: str


@dataclass(frozen=True)
class Case:
    """An answer, and the feedback that a judge gave on it."""

    subject: Subject
    feedback: Feedback

    @property
    def prompt(self) -> str:
        return self.subject.item.prompt


def read_cases(
    places: Sequence[Path], task: Callable[[str], Task], data: Mapping[str, Path]
) -> list[Case]:
    """The answers with feedback in files of judged records, or in runs, each once.

    `task` loads a task by name, `data` names the folders of tasks whose items lie elsewhere: the
    records name their items by digest, and prompt and reference are the task's own.

    Raises:
        UserError: nothing there, a line that is no judged record, or items that the task lacks.
    """
    judged: dict[tuple[str, str], Judged] = {}
    for path in [file for place in places for file in _files(place)]:
        for one in read_records(path, Judged):
            if one.feedback.aspects:
                judged.setdefault((one.sample.item, one.sample.response), one)
    if not judged:
        raise UserError(
            f"{', '.join(map(str, places))} holds no feedback. Name a run, or a file that "
            "`rlrf feedback` wrote."
        )
    wanted: dict[str, set[str]] = defaultdict(set)
    for one in judged.values():
        wanted[one.sample.task].add(one.sample.item)
    tasks = {name: task(name) for name in wanted}
    items = {
        item.digest: item
        for name, digests in wanted.items()
        for item in _items(tasks[name], digests, data.get(name))
    }
    return [
        Case(subject_of(items[item], response, tasks[one.sample.task]), one.feedback)
        for (item, response), one in judged.items()
    ]


def subject_of(item: Item, response: str, task: Task) -> Subject:
    """An answer, and what `task` compares it with."""
    return Subject(item, response, task.ground(item, response))


def _files(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    found = sorted(place.glob(RECORDS))
    if not found:
        raise UserError(f"{place} is no run that has given feedback: it has no {RECORDS}.")
    return found


def _items(task: Task, digests: set[str], data: Path | None) -> list[Item]:
    """The items with these digests, from whichever split has them."""
    found: dict[str, Item] = {}
    for split in task.splits:
        if digests - found.keys():
            found |= {i.digest: i for i in task.items(split, data) if i.digest in digests}
    if absent := digests - found.keys():
        raise UserError(
            f"{len(absent)} of the {len(digests)} items of {task.name} that were judged are not "
            f"among its own. If its data lies elsewhere, say --data {task.name}=FOLDER."
        )
    return list(found.values())


def cases_digest(cases: Sequence[Case]) -> str:
    """Identity of the cases, in their order."""
    return digest(
        [
            [c.subject.item.digest, c.subject.response, c.subject.reference, digest(c.feedback)]
            for c in cases
        ]
    )


def usual_grades(cases: Sequence[Case]) -> dict[str, int]:
    """The most frequent grade of each aspect, the lower one of equals; by name."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for case in cases:
        for said in case.feedback.aspects:
            counts[said.aspect][said.grade] += 1
    return {
        aspect: max(sorted(grades), key=lambda grade: grades[grade])
        for aspect, grades in sorted(counts.items())
    }
