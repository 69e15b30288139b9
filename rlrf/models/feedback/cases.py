"""Read the judged answers that a feedback model learns from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import UserError
from harness.core.files import read_records
from harness.core.schema import Feedback, Item, digest
from rlrf.feedback import Judged
from rlrf.models.feedback.model import Subject, subject_of
from tasks.task import Task

RECORDS = "iter_*/*feedback/records.jsonl"  # in a run: of explored responses and of refinements


@dataclass(frozen=True)
class Case:
    """A response, and the feedback that a judge gave on it."""

    subject: Subject
    feedback: Feedback

    @property
    def prompt(self) -> str:
        return self.subject.item.prompt


def read_cases(
    places: Sequence[Path], task: Callable[[str], Task], data: Mapping[str, Path]
) -> list[Case]:
    """Read the answers with feedback from files of judged records or from runs, each once.

    Records name their items by digest; prompts and references come from the task. `task` loads a
    task by name, `data` names the folder of a task's items if that is not the usual one.

    Raises:
        UserError: there is no feedback, a line is not a judged record, or a task lacks an item.
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


def _files(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    files = sorted(place.glob(RECORDS))
    if not files:
        raise UserError(f"{place} is not a run with feedback: it has no {RECORDS}.")
    return files


def _items(task: Task, digests: set[str], data: Path | None) -> list[Item]:
    """Find the items with these digests in any split of the task."""
    items: dict[str, Item] = {}
    for split in task.splits:
        if digests - items.keys():
            items |= {i.digest: i for i in task.items(split, data) if i.digest in digests}
    if absent := digests - items.keys():
        raise UserError(
            f"{len(absent)} of the {len(digests)} items of {task.name} that were judged are not "
            f"among its items. If its data is in another folder, add --data {task.name}=FOLDER."
        )
    return list(items.values())


def cases_digest(cases: Sequence[Case]) -> str:
    """Compute a digest of the cases and their order."""
    return digest(
        [
            [c.subject.item.digest, c.subject.response, c.subject.reference, digest(c.feedback)]
            for c in cases
        ]
    )


def usual_grades(cases: Sequence[Case]) -> dict[str, int]:
    """Return the most frequent grade of each aspect, the lowest if several are."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for case in cases:
        for aspect_feedback in case.feedback.aspects:
            counts[aspect_feedback.aspect][aspect_feedback.grade] += 1
    return {
        aspect: max(sorted(grades), key=lambda grade: grades[grade])
        for aspect, grades in sorted(counts.items())
    }
