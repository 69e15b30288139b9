"""Keep a leaderboard: append-only results that can be recomputed from the scores next to them.

A board is a folder:

    ledger.jsonl            a `Row` per line, chained; see `harness.board.ledger`
    HEAD                    digest of the last row, so that a ledger cut short is noticed
    samples/DIGEST.jsonl.gz per-item scores of one evaluation, named by the sha256 of the file

Rows are never changed or removed: a further row supersedes or invalidates what is wrong. Scores are
kept without responses, with only those details that the metrics are computed from. Appends are made
one at a time under a lock, each written and fsynced before HEAD is replaced. A process that is
killed in between leaves an unfinished last line, or a HEAD one row behind. `verify` reports this,
and the next append repairs it; nothing that was acknowledged is lost.

The chain shows accidents and careless changes. It cannot show that someone rewrote rows, digests
and HEAD together: keep the folder under version control, or note the HEAD elsewhere.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.board import ledger
from harness.board.audit import Audit, evaluation_problems, lean
from harness.board.ledger import (
    FIRST,
    DecisionEntry,
    EvaluationEntry,
    InvalidateEntry,
    Line,
    MergeEntry,
    PromotionEntry,
    Reading,
    Row,
    SupersedeEntry,
)
from harness.core.errors import UserError
from harness.core.files import (
    MAX_LINE_BYTES,
    jsonl_bytes,
    make_folder,
    open_plain,
    parse,
    records_digest,
    write_bytes,
)
from harness.core.outputs import check_place, is_negligible
from harness.core.schema import Decision, Promotion, Score, canonical_json, check_name, digest
from harness.core.scored import ScoredEvaluation

MAX_PACKED_BYTES = 256 * 1024**2  # of the scores of one evaluation
MAX_SCORES_BYTES = 1024**3  # of the same, unpacked
MAX_SCORES = 2_000_000
MANUAL = "manual"  # the run of what people add

Entry = (
    EvaluationEntry | DecisionEntry | PromotionEntry | SupersedeEntry | InvalidateEntry | MergeEntry
)


@dataclass(frozen=True)
class Board:
    """A leaderboard in `folder`, which the first append makes."""

    folder: Path

    def add_evaluation(self, scored: ScoredEvaluation, name: str, run: str) -> str:
        """Record an evaluation of the model `name`; return the digest of its row.

        Raises:
            UserError: the scores do not give the evaluation's digest or metrics; or the board is
                damaged, locked or cannot be written.
        """
        check_name(name, "The name of the model")
        check_name(run, "The name of the run")
        evaluation, scores = scored.evaluation, list(scored.scores)
        if records_digest(scores) != evaluation.scores_digest:
            raise UserError(
                f"The scores of {name} on {evaluation.task} are not the ones its evaluation was "
                "made from (scores_digest differs). Evaluate it again."
            )
        _refuse(evaluation_problems(evaluation, scores), f"{name} on {evaluation.task}")
        begins = b'{"evaluation":%s,"kind":"evaluation","name":%s,' % (
            _canonical(evaluation.model_dump(mode="json")),
            _canonical(name),
        )

        def make(_lines: Sequence[Line]) -> Entry:
            packed = gzip.compress(jsonl_bytes(lean(evaluation, scores)), mtime=0)
            samples = hashlib.sha256(packed).hexdigest()
            write_bytes(self._samples(samples), packed)
            return EvaluationEntry(name=name, evaluation=evaluation, samples=samples)

        return self._append(run, lambda line: line.entry.startswith(begins), make)

    def add_decision(
        self, decision: Decision, run: str, kind: Literal["incumbent", "anchor", "sealed"]
    ) -> str:
        """Record a decision against the `kind` of baseline; return the digest of its row.

        Raises:
            UserError: the decision's evaluations are not on the board, or do not give this
                decision; or as `add_evaluation`.
        """
        entry = DecisionEntry(against=kind, decision=decision)
        return self._append_checked(run, entry, f"The decision against the {kind}")

    def add_promotion(self, promotion: Promotion, candidate: str, incumbent: str, run: str) -> str:
        """Record whether `candidate` took the place of `incumbent`; return the row's digest.

        Raises:
            UserError: the promotion's decisions, or the two names, are not on the board, or do not
                give this promotion; or as `add_evaluation`.
        """
        entry = PromotionEntry(candidate=candidate, incumbent=incumbent, promotion=promotion)
        return self._append_checked(run, entry, f"The promotion of {candidate}")

    def supersede(self, old: str, new: str, reason: str, run: str = MANUAL) -> str:
        """Record that the evaluation `new` replaces `old`; return the digest of the row.

        `old` and `new` are the beginnings of digests, of rows or of entries. Decisions and
        promotions that rest on the old evaluation no longer count either.

        Raises:
            UserError: `old` and `new` are not two evaluations of one task; or as `add_evaluation`.
        """
        names = self._find(old), self._find(new)
        entry = parse(
            SupersedeEntry, {"old": names[0], "new": names[1], "reason": reason}, "supersede"
        )
        return self._append_checked(run, entry, "The supersession")

    def invalidate(self, entry: str, reason: str, run: str = MANUAL) -> str:
        """Record that an entry, named by the beginning of its digest, no longer counts.

        Invalidate the invalidation to undo it.

        Raises:
            UserError: the digest names no entry or several; or as `add_evaluation`.
        """
        withdrawn = parse(
            InvalidateEntry, {"entry": self._find(entry), "reason": reason}, "invalidate"
        )
        return self._append_checked(run, withdrawn, "The invalidation")

    def rows(self) -> list[Row]:
        """Return all rows, each after those it follows; none if there is no board yet.

        Raises:
            UserError: the ledger is damaged.
        """
        with ledger.lock(self.folder):
            lines = self._lines(Reading(*self._files))
        return ledger.in_order([line.row() for line in lines])

    def scores(self, entry: EvaluationEntry) -> list[Score]:
        """Read the per-item scores of an evaluation on this board.

        Raises:
            UserError: the file is missing or was changed.
        """
        path = self._samples(entry.samples)
        try:
            with open_plain(path) as file:
                packed = file.read(MAX_PACKED_BYTES + 1)
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing. Restore it from a copy.") from error
        except OSError as error:
            raise UserError(f"Cannot read {path} ({error.strerror or error}).") from error
        if len(packed) > MAX_PACKED_BYTES:
            raise UserError(f"{path} is larger than {MAX_PACKED_BYTES:,} bytes: not read.")
        if hashlib.sha256(packed).hexdigest() != entry.samples:
            raise UserError(f"{path} was changed. Restore it from a copy.")
        try:
            return list(_unpacked(packed, path))
        except (EOFError, OSError, ValueError, RecursionError, zlib.error) as error:
            raise UserError(f"{path} is not gzipped JSON lines ({error}).") from error

    def exposure(self) -> dict[str, Mapping[str, int]]:
        """Count how many decisions used each item: task -> item digest -> decisions.

        A decision counts once, however often it is on the board. Withdrawn decisions count too:
        the items were seen.

        Raises:
            UserError: the ledger is damaged, or scores are missing.
        """
        rows = self.rows()
        recorded = {
            row.entry.evaluation.identity: row.entry
            for row in rows
            if isinstance(row.entry, EvaluationEntry)
        }
        decisions = {
            digest(row.entry.decision): row.entry.decision
            for row in rows
            if isinstance(row.entry, DecisionEntry)
        }
        looks = [look for decision in decisions.values() for look in decision.candidate.items()]
        if missing := {identity for _, identity in looks} - recorded.keys():
            raise UserError(
                f"A decision was made from {min(missing)[:12]}, which is not on the board: run "
                f"rlrf board verify {self.folder}."
            )
        items = {
            identity: {score.item for score in self.scores(recorded[identity])}
            for identity in {identity for _, identity in looks}
        }
        return {
            task: Counter(
                item for other, identity in looks if other == task for item in items[identity]
            )
            for task in sorted({task for task, _ in looks})
        }

    def verify(self) -> list[str]:
        """Recompute everything; return the problems, of which a sound board has none.

        Checked are the chain, HEAD and the digest of every file; every metric from the per-item
        scores (by the task's own `aggregate`; for a task or task version that is not installed,
        only metrics that are plain means of items); every decision by the gate, and every
        promotion; and that superseded and invalidated entries exist. Numbers may differ by 1e-9,
        relatively. The wording of reasons is checked by the chain only.

        Raises:
            UserError: there is no board.
        """
        if not any(path.exists() for path in self._files):
            raise UserError(f"There is no board in {self.folder}: it has no ledger.jsonl.")
        with ledger.lock(self.folder):
            # First whether the rows are those that were written, then whether they are right.
            reading = Reading(*self._files)
            distinct: dict[str, Line] = {}  # what another run repeats is checked once
            for line in reading:
                distinct.setdefault(line.entry_digest, line)
            if reading.damage:
                return [reading.damage]
            problems = [reading.interrupted] if reading.interrupted else []
            audit = Audit(self.scores)
            for line in distinct.values():
                found = audit.admit(line, check=True)
                problems += [f"ledger.jsonl, line {line.number}: {problem}" for problem in found]
        return problems

    @property
    def _files(self) -> tuple[Path, Path]:
        return self.folder / "ledger.jsonl", self.folder / "HEAD"

    def _samples(self, name: str) -> Path:
        return self.folder / "samples" / f"{name}.jsonl.gz"

    def _lines(self, reading: Reading) -> list[Line]:
        lines = list(reading)
        if reading.damage:
            raise UserError(
                f"The board is damaged. {reading.damage} Restore the folder from a copy."
            )
        return lines

    def _find(self, prefix: str) -> str:
        """Find the digest of the entry that, or whose row, has a digest beginning with `prefix`."""
        self.check_place()
        with ledger.lock(self.folder):
            lines = self._lines(Reading(*self._files))
        named = {
            line.entry_digest
            for line in lines
            if len(prefix) >= 4
            and (line.digest.startswith(prefix) or line.entry_digest.startswith(prefix))
        }
        if len(named) != 1:
            what = (
                "names several rows: give more of it"
                if named
                else ("names no row: give 4 characters of a row's digest, or more")
            )
            raise UserError(f"'{prefix}' {what}. rlrf board render BOARD --json lists them.")
        return named.pop()

    # Appending

    def check_place(self) -> None:
        """Refuse a folder that is neither a board, nor new, nor empty.

        Raises:
            UserError: the folder holds other things, or cannot be written to.
        """
        try:
            real = check_place(self.folder)
        except UserError as error:
            raise UserError(f"Cannot write to the board {self.folder}: {error}") from error
        if not real.exists() or any(path.exists() for path in self._files):
            return
        for entry in sorted(real.iterdir()):
            # What an append that was killed may have left.
            if entry.name != "samples" and not is_negligible(entry):
                raise UserError(
                    f"{self.folder} holds {entry.name} and no board. Nothing was touched: choose "
                    "another folder for the board, or move what is there away."
                )

    def _append_checked(self, run: str, entry: Entry, what: str) -> str:
        text = _canonical(entry.model_dump(mode="json"))

        def make(lines: Sequence[Line]) -> Entry:
            audit = Audit(self.scores)
            for line in lines:
                audit.admit(line, check=False)
            _refuse(audit.problems(entry), what)
            return entry

        return self._append(run, lambda line: line.entry == text, make)

    def _append(
        self, run: str, same: Callable[[Line], bool], make: Callable[[Sequence[Line]], Entry]
    ) -> str:
        """Return the digest of the row with the entry, which is appended unless it is there."""
        self.check_place()
        try:
            make_folder(self.folder)
            with ledger.lock(self.folder):
                reading = Reading(*self._files)
                lines = self._lines(reading)
                ledger.recover(self.folder, reading)
                for line in lines:
                    if line.run == run and same(line):
                        return line.digest
                entry = make(lines)
                last, *others = sorted(reading.tips) or [FIRST]
                if others:
                    last = self._write(_row(run, MergeEntry(heads=others), last))
                return self._write(_row(run, entry, last))
        except OSError as error:
            raise UserError(
                f"Cannot write to the board {self.folder} ({error.strerror or error}). What it "
                "holds is safe: free some space or choose another folder, and start again."
            ) from error

    def _write(self, row: Row) -> str:
        ledger.write_row(self.folder, row)
        return row.digest


def _row(run: str, entry: Entry, previous: str) -> Row:
    row = Row(run=run, entry=entry, previous=previous, digest="")
    return row.model_copy(update={"digest": ledger.row_digest(row)})


def _unpacked(packed: bytes, path: Path) -> Iterator[Score]:
    """Parse the scores line by line, so that memory never holds all that the file unpacks to."""
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
        total = 0
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            total += len(line)
            if total > MAX_SCORES_BYTES or number > MAX_SCORES or len(line) > MAX_LINE_BYTES:
                raise UserError(
                    f"{path} unpacks to more than {MAX_SCORES_BYTES:,} bytes or {MAX_SCORES:,} "
                    "scores: not read."
                )
            if line.strip():
                yield parse(Score, ledger.loads(line), f"{path}, line {number}")


def _canonical(value: object) -> bytes:
    return canonical_json(value).encode("utf-8", "surrogatepass")


def _refuse(problems: Sequence[str], what: str) -> None:
    if problems:
        raise UserError(f"{what} cannot be put on the board: {problems[0].rstrip('.')}.")
