"""Check that a benchmark measures what it says: its items, its scoring, its prompts."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from harness.core.errors import UserError
from harness.core.schema import Record
from harness.core.text import listed, one_line, plural, quote, shorten
from harness.evals.checked_tasks import (
    NAMED,
    CallFailedError,
    CheckedTask,
    Entry,
    Kind,
    NoAnswerError,
    checked_tasks,
)
from harness.evals.lm_eval_metrics import base
from harness.evals.stock_tasks import (
    BrokenTaskError,
    UnknownBenchmarkError,
    find_benchmarks,
)
from harness.gate.near_duplicates import near_duplicates
from tasks.data import fold

LIMIT = 200  # items whose answers are scored and whose prompts are rendered
FULL = 1 - 1e-6
MAX_SHOWN_CHARS = 160
MAX_TWICE = 0.01  # share of items that may be there twice in published data
CHANCE = 0.05  # share of items that a worthless answer may get right by accident
GUESSING = 0.25  # share that a constant answer may get right, such as the last of four options
DESIGN = {("gate", "test"), ("sealed", "test")}  # parts of a test set, by `tasks.data`

Outcome = Literal["pass", "warn", "fail", "not checked"]


class Check(Record):
    """What one check of a benchmark found."""

    name: str
    outcome: Outcome
    finding: str
    example: str = Field(default="", description="the first counterexample")


class TaskReport(Record):
    """What the checks of one benchmark found."""

    task: str
    checks: list[Check]

    @property
    def outcome(self) -> Outcome:
        """Return the worst outcome; "not checked" if no item could be read."""
        outcomes = {check.outcome for check in self.checks if check.name != "metrics"}
        worst: Sequence[Outcome] = ("fail", "warn", "pass")
        return next((outcome for outcome in worst if outcome in outcomes), "not checked")

    def text(self) -> str:
        """Describe what was found, a line per check, with counterexamples below."""
        lines = [f"{one_line(self.task)}: {self.outcome}"]
        for check in self.checks:
            lines.append(f"  {check.outcome:11}  {check.name}: {one_line(check.finding)}")
            if check.example:
                lines.append(f"  {'':11}  {one_line(check.example)}")
        return "\n".join(lines)


class _Model:
    """The tokenizer and the context of the model whose prompts are checked."""

    def __init__(self, folder: Path) -> None:
        from harness.engines.loading import context_of, load_config, load_tokenizer

        self.name = folder.name
        config, self.tokenizer = load_config(folder), load_tokenizer(folder)
        self.context = context_of(config, self.tokenizer)


def check_tasks(
    names: Sequence[str],
    *,
    include_path: Sequence[Path] = (),
    data: Path | None = None,
    model: Path | None = None,
    limit: int = LIMIT,
    run_unsafe_code: bool = False,
) -> Iterator[TaskReport]:
    """Check benchmarks by name, a group of lm-eval task by task.

    Args:
        data: folder or file of the data of this package's benchmarks.
        model: folder of the model that prompts are rendered for; None: plain prompts, no lengths.
        limit: number of items whose answers are scored and whose prompts are rendered.
        run_unsafe_code: score tasks whose scoring runs generated code.

    Raises:
        UserError: there is no such benchmark, or no such model.
    """
    reader = _Model(model) if model else None
    for name in names:
        try:
            benchmarks = find_benchmarks([name], include_path)
        except UnknownBenchmarkError:
            raise
        except UserError as error:  # the task is known, and its data or code cannot be had here
            outcome: Outcome = "fail" if isinstance(error, BrokenTaskError) else "not checked"
            check = Check(name="splits", outcome=outcome, finding=str(error))
            yield TaskReport(task=name, checks=[check])
            continue
        for task in benchmarks:
            for checked in checked_tasks(task, data, run_unsafe_code=run_unsafe_code):
                yield check_task(checked, model=reader, limit=limit)


def check_task(task: CheckedTask, *, model: _Model | None = None, limit: int = LIMIT) -> TaskReport:
    """Make all checks of one benchmark."""
    splits: dict[str, list[Entry]] = {}
    checks = list(_check_splits(task, splits))
    metrics = task.metrics()
    checks.append(
        Check(name="metrics", outcome="pass", finding=", ".join(metrics))
        if metrics
        else Check(name="metrics", outcome="fail", finding="it has no metric")
    )
    if splits:
        checks += _check_duplicates(splits)
        checks += _check_shared(task, splits)
    if split := splits.get(task.evaluated, []):
        evaluated = _spread(split, limit)
        checks += _check_answers(task, evaluated, split)
        checks.append(_check_prompts(task, evaluated, model))
    return TaskReport(task=task.name, checks=checks)


def _spread(entries: Sequence[Entry], limit: int) -> list[Entry]:
    """Return up to `limit` entries that are spread evenly over all."""
    count = min(limit, len(entries))
    return [entries[place * len(entries) // count] for place in range(count)]


def _check_splits(task: CheckedTask, splits: dict[str, list[Entry]]) -> Iterator[Check]:
    """Read the splits into `splits`; say how many items they have, and which cannot be read."""
    faults: list[Check] = []
    for split in task.splits:
        try:
            splits[split] = task.entries(split)
        except UserError as error:
            finding = f"{split} cannot be read: {error}"
            faults.append(Check(name="splits", outcome="not checked", finding=finding))
        except CallFailedError as error:
            faults.append(Check(name="splits", outcome="fail", finding=str(error)))
    empty = [split for split, entries in splits.items() if not entries]
    if splits:
        sizes = ", ".join(f"{split} {len(entries):,}" for split, entries in splits.items())
        finding = f"items per split: {sizes}; {task.evaluated} is evaluated"
        outcome: Outcome = "fail" if empty else "pass"
        yield Check(name="splits", outcome=outcome, finding=finding)
    yield from faults


def _identity(entry: Entry) -> str:
    return fold(entry.text) or fold(entry.gold)


def _check_duplicates(splits: Mapping[str, Sequence[Entry]]) -> Iterator[Check]:
    """Find items that a split has twice, and equal questions with different answers."""
    clean = []
    for split, entries in splits.items():
        first: dict[str, Entry] = {}
        again: list[tuple[Entry, Entry]] = []
        contradicted: list[tuple[Entry, Entry]] = []
        for entry in entries:
            if (known := first.setdefault(_identity(entry), entry)) is not entry:
                same = fold(known.gold) == fold(entry.gold)
                (again if same else contradicted).append((known, entry))
        if not again and not contradicted:
            clean.append(split)
            continue
        twice = len(again) + len(contradicted)
        finding = f"{twice} of {len(entries)} items of {split} repeat another one"
        if contradicted:
            finding += f", {len(contradicted)} of them with another reference"
        known, entry = (contradicted or again)[0]
        is_bad = contradicted or len(again) > MAX_TWICE * len(entries)
        yield Check(
            name="duplicates",
            outcome="fail" if is_bad else "warn",
            finding=finding,
            example=f"{known.label} and {entry.label}: {_quoted(entry)}",
        )
    if clean:
        finding = f"no item is there twice in {listed(clean)}"
        yield Check(name="duplicates", outcome="pass", finding=finding)


def _check_shared(task: CheckedTask, splits: Mapping[str, Sequence[Entry]]) -> Iterator[Check]:
    """Find items that two splits share; nearly equal ones of training and evaluation, too."""
    named = {s: {_identity(e): e for e in reversed(entries)} for s, entries in splits.items()}
    pairs = list(itertools.combinations(splits, 2))
    is_shared = False
    for first, second in pairs:
        shared = named[first].keys() & named[second].keys()
        if not shared or (first, second) in DESIGN or (second, first) in DESIGN:
            continue
        is_shared = True
        text = min(shared, key=lambda text: named[first][text].index)
        finding = f"{first} and {second} share {len(shared)} {plural('item', len(shared))}"
        yield Check(
            name="shared items",
            outcome="fail",
            finding=finding,
            example=f"{named[first][text].label} and {named[second][text].label}: "
            f"{_quoted(named[first][text])}",
        )
    if pairs and not is_shared:
        yield Check(name="shared items", outcome="pass", finding="no two splits share an item")
    training = [entry for split in task.training for entry in splits.get(split, ())]
    held_out = splits.get(task.evaluated, ())
    if training and held_out and task.evaluated not in task.training:
        yield _check_near(training, held_out)


def _check_near(training: Sequence[Entry], held_out: Sequence[Entry]) -> Check:
    nearly = near_duplicates([[e.text] for e in training], [[e.text] for e in held_out]).pairs
    equal = {_identity(entry) for entry in training}
    nearly = [near for near in nearly if _identity(held_out[near.item]) not in equal]
    name = "near-duplicates"
    if not nearly:
        finding = "no item that is evaluated is nearly a training item"
        return Check(name=name, outcome="pass", finding=finding)
    nearest = max(nearly, key=lambda near: near.similarity)
    entry, of_training = held_out[nearest.item], training[nearest.training_row]
    return Check(
        name=name,
        outcome="warn",
        finding=f"{len(nearly)} of {len(held_out)} items that are evaluated are nearly a training "
        "item",
        example=f"{entry.label} and {of_training.label}: {_quoted(entry)} and "
        f"{_quoted(of_training)}",
    )


def _check_answers(
    task: CheckedTask, entries: Sequence[Entry], split: Sequence[Entry]
) -> Iterator[Check]:
    """Score answers that have to be right, and answers that must not be."""
    if task.unscorable:
        yield Check(name="scoring", outcome="not checked", finding=task.unscorable)
        return
    golds = Counter(fold(entry.gold) for entry in split)
    most_common = golds.most_common(1)[0][1] / len(split)
    for kind in task.kinds:
        to_score = [
            e for e in entries if kind != "empty" or e.gold.strip() or not golds[""] < len(split)
        ]
        try:
            scored, skipped = _scores(task, kind, to_score, split)
        except CallFailedError as error:
            yield Check(name=NAMED[kind], outcome="fail", finding=str(error))
            continue
        if not scored:
            reason = skipped or "there is no such answer"
            yield Check(name=NAMED[kind], outcome="not checked", finding=reason)
        elif kind == "reference":
            yield _check_reference(scored, skipped)
        else:
            yield _check_worthless(kind, scored, most_common)


Scored = list[tuple[Entry, Mapping[str, float]]]


def _scores(
    task: CheckedTask, kind: Kind, entries: Sequence[Entry], split: Sequence[Entry]
) -> tuple[Scored, str]:
    """Score one kind of answer to each item; return the scores, and why the first has none.

    Raises:
        CallFailedError: the benchmark's code fails; the message names the item.
    """
    scored: Scored = []
    skipped = ""
    for entry in entries:
        other = _other(entry, split) if kind == "other" else None
        if kind == "other" and other is None:
            skipped = skipped or "there is no item with another reference"
            continue
        try:
            scored.append((entry, task.score(entry, kind, other)))
        except NoAnswerError as error:
            skipped = skipped or f"{error} ({entry.label})"
        except CallFailedError as error:
            raise CallFailedError(f"{entry.label}: {error}") from error
    return scored, skipped


def _other(entry: Entry, split: Sequence[Entry]) -> Entry | None:
    """Return the next item of the split that has another reference."""
    place = next((i for i, known in enumerate(split) if known is entry), 0)
    following = itertools.chain(split[place + 1 :], split[:place])
    return next((e for e in following if fold(e.gold) != fold(entry.gold)), None)


def _check_reference(scored: Scored, skipped: str) -> Check:
    """Check that each metric gives all reference answers full marks, under one of its filters."""
    name = NAMED["reference"]
    below: dict[str, dict[str, list[Entry]]] = defaultdict(dict)
    for label in dict.fromkeys(label for _, qualities in scored for label in qualities):
        metric, _, filter_name = label.partition(",")
        below[metric][filter_name] = [e for e, q in scored if q.get(label, 1.0) < FULL]
    failing = {
        metric: min(filters.values(), key=len)
        for metric, filters in below.items()
        if all(filters.values())
    }
    notes = [
        f"{metric} under the filter {filter_name} gives full marks to "
        f"{len(scored) - len(entries)} of them"
        for metric, filters in below.items()
        if metric not in failing
        for filter_name, entries in filters.items()
        if entries
    ]
    note = "".join(f"; {text}" for text in notes)
    if failing:
        metric, entries = next(iter(failing.items()))
        return Check(
            name=name,
            outcome="fail",
            finding=f"{metric} does not give full marks to {len(entries)} of {len(scored)}{note}",
            example=f"{entries[0].label}: reference {_clipped(entries[0].gold)}",
        )
    if skipped:
        note += f"; unscored for others: {skipped}"
    finding = f"full marks for all {len(scored)} by {', '.join(below)}{note}"
    return Check(name=name, outcome="warn" if skipped or notes else "pass", finding=finding)


def _check_worthless(kind: Kind, scored: Scored, most_common: float) -> Check:
    """Check that an answer without merit gets no full marks, but for chance."""
    primary = base(next(iter(scored[0][1])))
    full = [
        entry
        for entry, qualities in scored
        if any(v >= FULL for label, v in qualities.items() if base(label) == primary)
    ]
    share = len(full) / len(scored)
    name = NAMED[kind]
    if not full:
        finding = f"full marks for none of {len(scored)}"
        return Check(name=name, outcome="pass", finding=finding)
    finding = f"{primary} gives full marks to {len(full)} of {len(scored)}"
    if kind == "equal":  # lm-eval takes the first choice
        if len(full) < len(scored) or len(scored) == 1:
            return Check(name=name, outcome="pass", finding=finding)
        finding += ": the right choice is always the first, which wins if all are equal"
        return Check(name=name, outcome="warn", finding=finding)
    outcome: Outcome = "fail"
    if kind in ("prompt", "other") and share <= max(GUESSING, most_common) + CHANCE:
        outcome = "pass" if share <= CHANCE else "warn"
        finding += ", which may be chance"
    example = f"{full[0].label}: {_quoted(full[0])}, reference {quote(shorten(full[0].gold, 80))}"
    return Check(name=name, outcome=outcome, finding=finding, example=example)


def _check_prompts(task: CheckedTask, entries: Sequence[Entry], model: _Model | None) -> Check:
    """Render the prompts, and count those that do not fit the model's context."""
    tokenizer = model.tokenizer if model else None
    blank, too_long, longest = [], [], 0
    for entry in entries:
        try:
            rendered = task.rendered(entry, tokenizer)
        except (UserError, CallFailedError) as error:
            return Check(name="prompts", outcome="fail", finding=str(error), example=entry.label)
        if not rendered.prompt.strip() and not rendered.continuation.strip():
            blank.append(entry)
        if model is not None:
            tokens = _tokens(model, rendered.prompt)
            length = tokens + (rendered.max_tokens or _tokens(model, rendered.continuation))
            longest = max(longest, length)
            if length > model.context:
                too_long.append(entry)
    if blank:
        finding = f"{len(blank)} of {len(entries)} are empty"
        return Check(name="prompts", outcome="fail", finding=finding, example=blank[0].label)
    if model is None:
        finding = f"{len(entries)} rendered as plain text; --model checks its template and lengths"
        return Check(name="prompts", outcome="pass", finding=finding)
    templated = "its chat template" if model.tokenizer.chat_template else "no chat template"
    finding = (
        f"{len(entries)} rendered for {model.name} with {templated}; with the answer the longest "
        f"takes {longest:,} of {model.context:,} tokens"
    )
    if too_long:
        finding += f", and {len(too_long)} do not fit"
        return Check(name="prompts", outcome="fail", finding=finding, example=too_long[0].label)
    return Check(name="prompts", outcome="pass", finding=finding)


def _tokens(model: _Model, text: str) -> int:
    from harness.engines.prompts import encode

    return len(encode(model.tokenizer, text))


def _quoted(entry: Entry) -> str:
    return _clipped(entry.text)


def _clipped(text: str) -> str:
    return quote(shorten(text, MAX_SHOWN_CHARS))
