"""The record: an append-only ledger that anyone can recompute.

A board is a folder:

    ledger.jsonl            a `Row` a line in canonical JSON, with the digest of the one before
    HEAD                    digest of the last row, so that a ledger cut short is noticed
    samples/DIGEST.jsonl.gz per-item scores of one evaluation, named by the sha256 of the file

A row never changes and no row is taken away: what is current follows from the last promotion. The
scores are kept without the answers: of a score's details only those that the metrics are computed
from. Appends are made one at a time under a lock, each written and fsynced before HEAD moves on. A
process that is killed in between leaves a torn last line, or a HEAD one row behind; `verify` says
so, and the next append puts it right, since nothing that was acknowledged is lost.

The chain shows accident and careless change. It cannot show that someone rewrote rows, digests and
HEAD together: keep the folder under version control, or note the HEAD elsewhere.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tasks
from harness.errors import UserError
from harness.evidence import Scored
from harness.gate import decide, promote
from harness.schema import (
    SCHEMA_VERSION,
    Decision,
    DecisionEntry,
    Evaluation,
    EvaluationEntry,
    MetricResult,
    Promotion,
    PromotionEntry,
    Row,
    Score,
    digest,
)
from harness.store import jsonl_bytes, parse, read_records, write_bytes, write_text
from tasks.plugin import aggregate

FIRST = "0" * 64  # what the first row names as the digest of the one before
LOCK_SECONDS = 60

Entry = EvaluationEntry | DecisionEntry | PromotionEntry


@dataclass(frozen=True)
class _Ledger:
    """What is on disk: the rows that hold together, and what does not."""

    rows: list[Row]
    torn: int  # bytes of an unfinished last line
    damage: str  # why the ledger cannot be trusted
    interrupted: str  # what a killed append left behind


@dataclass(frozen=True)
class _Recorded:
    evaluation: Evaluation
    scores: list[Score]


@dataclass(frozen=True)
class Board:
    """A leaderboard in `folder`, which the first append makes."""

    folder: Path

    def add_evaluation(self, scored: Scored, name: str, run: str) -> str:
        """Record an evaluation of the model `name`; return the digest of its row.

        Raises:
            UserError: its scores do not give its digest or its metrics; or the board is damaged,
                locked or cannot be written.
        """
        evaluation, scores = scored.evaluation, list(scored.scores)
        if hashlib.sha256(jsonl_bytes(scores)).hexdigest() != evaluation.scores_digest:
            raise UserError(
                f"The scores of {name} on {evaluation.task} are not the ones its evaluation was "
                "made from (scores_digest differs). Evaluate it again."
            )
        _refuse(_metric_problems(evaluation, scores), f"{name} on {evaluation.task}")

        def same(entry: Entry) -> bool:
            return (
                isinstance(entry, EvaluationEntry)
                and entry.name == name
                and entry.evaluation.identity == evaluation.identity
            )

        def make(_rows: Sequence[Row]) -> Entry:
            packed = gzip.compress(jsonl_bytes(_lean(evaluation, scores)), mtime=0)
            samples = hashlib.sha256(packed).hexdigest()
            write_bytes(self._samples(samples), packed)
            return EvaluationEntry(name=name, evaluation=evaluation, samples=samples)

        return self._append(run, same, make)

    def add_decision(
        self, decision: Decision, run: str, kind: Literal["incumbent", "anchor", "sealed"]
    ) -> str:
        """Record a decision against the `kind` of baseline; return the digest of its row.

        Raises:
            UserError: its evaluations are not on the board, or do not give this decision; or as
                `add_evaluation`.
        """
        entry = DecisionEntry(against=kind, decision=decision)
        return self._append_checked(run, entry, f"The decision against the {kind}")

    def add_promotion(self, promotion: Promotion, candidate: str, incumbent: str, run: str) -> str:
        """Record whether `candidate` took the place of `incumbent`; return the row's digest.

        Raises:
            UserError: its decisions, or the two names, are not on the board, or do not give this
                promotion; or as `add_evaluation`.
        """
        entry = PromotionEntry(candidate=candidate, incumbent=incumbent, promotion=promotion)
        return self._append_checked(run, entry, f"The promotion of {candidate}")

    def rows(self) -> list[Row]:
        """All rows, in order; none where there is no board yet.

        Raises:
            UserError: the ledger is damaged.
        """
        with self._lock():
            ledger = self._read()
        if ledger.damage:
            raise UserError(_damaged(ledger.damage))
        return ledger.rows

    def scores(self, entry: EvaluationEntry) -> list[Score]:
        """The per-item scores of an evaluation on this board.

        Raises:
            UserError: their file is missing, or not the one that was recorded.
        """
        path = self._samples(entry.samples)
        if hashlib.sha256(_bytes(path)).hexdigest() != entry.samples:
            state = "was changed" if path.exists() else "is missing"
            raise UserError(f"{path} {state}. Restore it from a copy.")
        return read_records(path, Score)

    def verify(self) -> list[str]:
        """Recompute everything; return what does not hold, nothing where the board is sound.

        The chain, HEAD and the digest of every file; every metric from the per-item scores (by
        the task's own `aggregate`; for a task or task version that is not installed, the metrics
        that are plain means of items); every decision by the gate, and every promotion. Numbers
        may differ by 1e-9, relatively. The wording of reasons is held by the chain alone.

        Raises:
            UserError: there is no board.
        """
        if not any((self.folder / name).exists() for name in ("ledger.jsonl", "HEAD")):
            raise UserError(f"There is no board in {self.folder}: it has no ledger.jsonl.")
        with self._lock():
            ledger = self._read()
        if ledger.damage:
            return [ledger.damage]
        problems = [ledger.interrupted] if ledger.interrupted else []
        for number, row in enumerate(ledger.rows, 1):
            found = self._problems(row.entry, ledger.rows[: number - 1])
            problems += [f"ledger.jsonl, line {number}: {problem}" for problem in found]
        return problems

    def _samples(self, name: str) -> Path:
        return self.folder / "samples" / f"{name}.jsonl.gz"

    # Appending

    def _append_checked(self, run: str, entry: DecisionEntry | PromotionEntry, what: str) -> str:
        def same(other: Entry) -> bool:
            return digest(other) == digest(entry)

        def make(rows: Sequence[Row]) -> Entry:
            _refuse(self._problems(entry, rows), what)
            return entry

        return self._append(run, same, make)

    def _append(
        self, run: str, same: Callable[[Entry], bool], make: Callable[[Sequence[Row]], Entry]
    ) -> str:
        """The digest of the row that holds the entry: the one there already, or a new one."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock():
                ledger = self._read()
                if ledger.damage:
                    raise UserError(_damaged(ledger.damage))
                self._recover(ledger)
                for row in ledger.rows:
                    if row.run == run and same(row.entry):
                        return row.digest
                row = _row(run, make(ledger.rows), _head(ledger.rows))
                self._write(row)
        except OSError as error:
            raise UserError(
                f"Cannot write to the board {self.folder} ({error.strerror or error}). What it "
                "holds is safe: free some space or choose another folder, and start again."
            ) from error
        return row.digest

    def _write(self, row: Row) -> None:
        path = self.folder / "ledger.jsonl"
        if not path.exists():
            write_bytes(path, b"")
        with open(path, "ab") as file:
            file.write(jsonl_bytes([row]))
            file.flush()
            os.fsync(file.fileno())
        write_text(self.folder / "HEAD", row.digest + "\n")

    def _recover(self, ledger: _Ledger) -> None:
        """Finish or take back what an interrupted append left."""
        if ledger.torn:
            path = self.folder / "ledger.jsonl"
            with open(path, "r+b") as file:
                file.truncate(path.stat().st_size - ledger.torn)
                os.fsync(file.fileno())
        elif ledger.interrupted:
            write_text(self.folder / "HEAD", ledger.rows[-1].digest + "\n")

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        import filelock

        lock = filelock.FileLock(self.folder / ".lock", timeout=LOCK_SECONDS)
        with contextlib.ExitStack() as held:
            # A board that cannot be written, or is not there yet, needs no lock to be read.
            if self.folder.is_dir() and os.access(self.folder, os.W_OK):
                try:
                    held.enter_context(lock)
                except filelock.Timeout as error:
                    raise UserError(
                        f"Another process has held the board {self.folder} for {LOCK_SECONDS} s. "
                        "Wait for it to finish, and start again."
                    ) from error
            yield

    # Reading and checking

    def _read(self) -> _Ledger:
        *lines, tail = _bytes(self.folder / "ledger.jsonl").split(b"\n")
        rows: list[Row] = []
        for number, line in enumerate(lines, 1):
            try:
                rows.append(_parse_row(line, _head(rows), f"ledger.jsonl, line {number}"))
            except UserError as error:
                return _Ledger(rows, 0, f"{error} Nothing after it can be trusted.", "")
        pointer = _bytes(self.folder / "HEAD") or FIRST.encode() + b"\n"
        if pointer == _head(rows).encode() + b"\n":
            torn = (
                "The last line of ledger.jsonl is unfinished: an append was interrupted. "
                "The next append takes it away."
            )
            return _Ledger(rows, len(tail), "", torn if tail else "")
        if rows and not tail and pointer == rows[-1].previous.encode() + b"\n":
            behind = (
                "HEAD is one row behind ledger.jsonl: an append was interrupted. "
                "The next append completes it."
            )
            return _Ledger(rows, 0, "", behind)
        damage = (
            f"HEAD does not name the last row of ledger.jsonl ({_head(rows)[:12]}): rows were "
            "taken away, or one of the two files was changed."
        )
        return _Ledger(rows, 0, damage, "")

    def _problems(self, entry: Entry, before: Sequence[Row]) -> list[str]:
        """What of an entry does not follow from the rows before it."""
        try:
            if isinstance(entry, EvaluationEntry):
                return _metric_problems(entry.evaluation, self.scores(entry))
            if isinstance(entry, DecisionEntry):
                return self._decision_problems(entry.decision, before)
            return _promotion_problems(entry, before)
        except UserError as error:
            return [str(error)]

    def _decision_problems(self, decision: Decision, before: Sequence[Row]) -> list[str]:
        recorded = {
            row.entry.evaluation.identity: row.entry
            for row in before
            if isinstance(row.entry, EvaluationEntry)
        }

        def side(identities: Mapping[str, str]) -> dict[str, _Recorded]:
            missing = [task for task, name in identities.items() if name not in recorded]
            if missing:
                raise UserError(
                    f"an evaluation of {missing[0]} that it was made from is not on the board; "
                    "add it first"
                )
            entries = {task: recorded[identity] for task, identity in identities.items()}
            return {
                task: _Recorded(entry.evaluation, self.scores(entry))
                for task, entry in entries.items()
            }

        again = decide(decision.policy, side(decision.baseline), side(decision.candidate))
        if _close(_without_words(decision), _without_words(again)):
            return []
        return [f"the gate decides otherwise on these scores: {again.verdict}, not this decision"]


def _bytes(path: Path) -> bytes:
    """What a file holds; nothing where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror or error}).") from error


def _row(run: str, entry: Entry, previous: str) -> Row:
    row = Row(run=run, entry=entry, previous=previous, digest="")
    return row.model_copy(update={"digest": _row_digest(row)})


def _row_digest(row: Row) -> str:
    return digest(row.model_dump(mode="json", exclude={"digest"}))


def _head(rows: Sequence[Row]) -> str:
    return rows[-1].digest if rows else FIRST


def _parse_row(line: bytes, previous: str, where: str) -> Row:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}).") from error
    if isinstance(value, dict) and value.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{where}: schema version {value.get('schema_version')!r}, this program reads "
            f"{SCHEMA_VERSION}: install the version that wrote the board, if nobody changed it."
        )
    row = parse(Row, value, where)
    if jsonl_bytes([row]) != line + b"\n" or _row_digest(row) != row.digest:
        raise UserError(f"{where}: the row was changed (it does not have its digest).")
    if row.previous != previous:
        raise UserError(f"{where}: the row before it was taken away, added or moved.")
    return row


def _damaged(damage: str) -> str:
    return f"The board is damaged. {damage} Restore the folder from a copy."


def _refuse(problems: Sequence[str], what: str) -> None:
    if problems:
        raise UserError(f"{what} cannot be put on the board: {problems[0].rstrip('.')}.")


def _metric_problems(evaluation: Evaluation, scores: Sequence[Score]) -> list[str]:
    recomputed, complete = _recompute(evaluation, scores)
    problems = []
    for name in sorted({*evaluation.metrics, *recomputed}):
        recorded, again = evaluation.metrics.get(name), recomputed.get(name)
        if again is None and not complete:
            continue  # derived by a task that is not installed
        if not _close(_plain(recorded), _plain(again)):
            problems.append(f"{name} is recorded as {recorded}, and its scores give {again}")
    return problems


def _recompute(
    evaluation: Evaluation, scores: Sequence[Score]
) -> tuple[dict[str, MetricResult], bool]:
    """The metrics of `scores`, and whether these are all that the evaluation can have."""
    if evaluation.task in tasks.names():
        task = tasks.load(evaluation.task)
        if task.version == evaluation.task_version:
            return task.aggregate(scores), True
    return aggregate(scores), False


def _lean(evaluation: Evaluation, scores: Sequence[Score]) -> list[Score]:
    """The scores without the details (answers, replies) that the metrics do not depend on."""
    kept = list(scores)
    for key in sorted({key for score in scores for key in score.details}):
        fewer = [
            score.model_copy(
                update={"details": {k: v for k, v in score.details.items() if k != key}}
            )
            for score in kept
        ]
        with contextlib.suppress(Exception):  # a task that needs the key may fail without it
            again, _ = _recompute(evaluation, fewer)
            if all(_close(_plain(m), _plain(again.get(k))) for k, m in evaluation.metrics.items()):
                kept = fewer
    return kept


def _promotion_problems(entry: PromotionEntry, before: Sequence[Row]) -> list[str]:
    decisions = {
        digest(row.entry.decision): row.entry.decision
        for row in before
        if isinstance(row.entry, DecisionEntry)
    }
    promotion = entry.promotion
    if promotion.vs_incumbent not in decisions or promotion.vs_anchor not in decisions:
        return ["a decision that it was made from is not on the board; add it first"]
    against = decisions[promotion.vs_incumbent]
    for name, identities in (
        (entry.candidate, against.candidate),
        (entry.incumbent, against.baseline),
    ):
        own = {
            row.entry.evaluation.identity
            for row in before
            if isinstance(row.entry, EvaluationEntry) and row.entry.name == name
        }
        if not own.issuperset(identities.values()):
            return [f"its decision is about evaluations that the board has under no name '{name}'"]
    again = promote(against, decisions[promotion.vs_anchor])
    if _close(_without_words(promotion), _without_words(again)):
        return []
    return [f"its decisions give otherwise: promoted is {again.promoted}, z {again.ladder_z:.4g}"]


def _without_words(value: Decision | Promotion) -> Any:
    """What is decided, without the sentences that say it, which may be reworded."""
    return value.model_dump(
        mode="json", exclude={"reasons": True, "checks": {"__all__": {"reason"}}}
    )


def _plain(result: MetricResult | None) -> Any:
    return result.model_dump(mode="json") if result else None


def _close(one: Any, other: Any) -> bool:
    """Equal JSON, but for the last digits of numbers: libraries round differently."""
    if isinstance(one, float) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_close(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_close, one, other))
    return bool(one == other)
