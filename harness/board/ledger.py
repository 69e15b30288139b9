"""Read, append to and merge the ledger of a board: chained rows, and HEAD, which names the last.

    ledger.jsonl   a `Row` per line in canonical JSON; rows are never changed or removed
    HEAD           digest of the last row, so that a ledger cut short is noticed

If two people append at once, each to a copy, the ledger has two branches: `merge` puts their lines
into one file, HEAD names the last row of each on a line of its own, and the next append joins the
branches by a `MergeEntry`. No row changes its digest when boards are merged.

A digest is checked on the bytes as they were written. A program whose records have gained fields
therefore still reads the ledgers of an older one.

`merge` works as a git merge driver, one file without the other: a lost row, or a branch that HEAD
does not name, is noticed when the board is read. Scores are files named by their content, which git
merges by itself.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import Field

from harness.core.errors import UserError
from harness.core.files import (
    MAX_LINE_BYTES,
    jsonl_bytes,
    open_plain,
    parse,
    unique_keys,
    write_bytes,
    write_text,
)
from harness.core.folders import sweep
from harness.core.schema import (
    SCHEMA_VERSION,
    Decision,
    Evaluation,
    Name,
    Promotion,
    Record,
    SchemaVersion,
    canonical_json,
    digest,
)

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class EvaluationEntry(Record):
    """On a ledger: an evaluation, and under which name it is ranked."""

    kind: Literal["evaluation"] = "evaluation"
    name: Name = Field(min_length=1, description="of the model, e.g. M1")
    evaluation: Evaluation
    samples: str = Field(
        pattern="^[0-9a-f]{64}$",
        description="sha256 of the file of per-item scores beside the ledger",
    )


class DecisionEntry(Record):
    """On a ledger: a gate's decision, and whom the candidate met."""

    kind: Literal["decision"] = "decision"
    against: Literal["incumbent", "anchor", "sealed"]
    decision: Decision


class PromotionEntry(Record):
    """On a ledger: whether `candidate` took the place of `incumbent`."""

    kind: Literal["promotion"] = "promotion"
    candidate: Name
    incumbent: Name
    promotion: Promotion


class SupersedeEntry(Record):
    """On a ledger: an evaluation that another one replaces."""

    kind: Literal["supersede"] = "supersede"
    old: Digest = Field(description="of the entry (not the row) that no longer counts")
    new: Digest = Field(description="of the evaluation's entry that counts instead")
    reason: str = Field(min_length=1, max_length=2000)


class InvalidateEntry(Record):
    """On a ledger: an entry that no longer counts."""

    kind: Literal["invalidate"] = "invalidate"
    entry: Digest = Field(description="of the entry (not the row) that is withdrawn")
    reason: str = Field(min_length=1, max_length=2000)


class MergeEntry(Record):
    """On a ledger: branches that two people appended to are one again."""

    kind: Literal["merge"] = "merge"
    heads: list[Digest] = Field(
        min_length=1, description="of the last rows of the branches that end here"
    )


class Row(Record):
    """One line of a ledger: what was found, chained to the row it follows."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    run: Name
    entry: Annotated[
        EvaluationEntry
        | DecisionEntry
        | PromotionEntry
        | SupersedeEntry
        | InvalidateEntry
        | MergeEntry,
        Field(discriminator="kind"),
    ]
    previous: str = Field(description="of the row it follows; 64 zeros for the first")
    digest: str = Field(description="sha256 of the canonical JSON of all the other fields")


FIRST = "0" * 64  # what a first row names as the row it follows
LOCK_SECONDS = 60
MAX_LEDGER_BYTES = 4 * 1024**3
MAX_HEAD_BYTES = 1024**2

# A row in canonical JSON. Its digest is of the same text without the first member, so the digest
# and the entry are read from the bytes: to parse each row and write it again takes 4 times as long.
_FRAME = re.compile(
    rb'\{"digest":"(?P<digest>[0-9a-f]{64})",(?P<rest>"entry":(?P<entry>\{.*\}),'
    rb'"previous":"(?P<previous>[0-9a-f]{64})","run":(?P<run>"(?:[^"\\]|\\.)*"),'
    rb'"schema_version":(?P<version>\d+)\})',
    re.DOTALL,
)


@dataclass(frozen=True)
class Line:
    """A row as it is written: its digest is right, and its entry is not parsed yet."""

    number: int
    text: bytes
    digest: str
    parents: tuple[str, ...]  # the row it follows, and the branches that it joins
    run: str
    entry: bytes  # canonical JSON

    @property
    def entry_digest(self) -> str:
        """Return the digest by which supersessions and invalidations name the entry."""
        return hashlib.sha256(self.entry).hexdigest()

    def row(self) -> Row:
        """Parse the row.

        Raises:
            UserError: the row does not fit the records of this program.
        """
        where = f"ledger.jsonl, line {self.number}"
        try:
            return parse(Row, loads(self.text), where)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not a row ({error}).") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")


# Made once: json.loads would make a decoder per line.
_JSON = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=unique_keys)


def loads(text: bytes) -> Any:
    """Parse JSON; NaN and repeated keys are refused.

    Raises:
        ValueError: not JSON, NaN, or a key twice in one object.
        RecursionError: nested too deeply.
    """
    return _JSON.decode(text.decode("utf-8", "surrogatepass"))


class Reading:
    """Read a ledger once: iterate over its intact lines, then look at `damage` and `interrupted`.

    The lines come in the order of the file, and stop before the first damaged one.
    """

    def __init__(self, ledger: Path, head: Path | None) -> None:
        self.ledger, self.head = ledger, head
        self.damage = ""  # why the ledger cannot be trusted
        self.interrupted = ""  # what an append that was killed left behind
        self.torn = 0  # bytes of an unfinished last line
        self.tips: list[str] = []  # rows that no other follows: the ends of the branches
        self._seen: set[str] = set()

    def __iter__(self) -> Iterator[Line]:
        before: list[str] = []
        number = 0
        try:
            for number, text in enumerate(self._texts(), 1):
                line = _line(text, number)
                self._chain(line)
                before, self.tips = self.tips, [t for t in self.tips if t not in line.parents]
                self.tips.append(line.digest)
                yield line
        except _BadLineError as fault:
            self.damage = f"ledger.jsonl, line {fault.number or number + 1}: {fault}"
            self.damage += " Nothing after it can be trusted."
            return
        self._compare_head(before)

    def _texts(self) -> Iterator[bytes]:
        try:
            # A board is a folder of someone; a ledger alone is a file that the user names.
            with open_plain(self.ledger) if self.head else open(self.ledger, "rb") as file:
                if os.fstat(file.fileno()).st_size > MAX_LEDGER_BYTES:
                    raise UserError(
                        f"{self.ledger} is larger than {MAX_LEDGER_BYTES / 1024**3:g} GiB, which "
                        "no board is: it is not read. Check what it holds."
                    )
                while text := file.readline(MAX_LINE_BYTES + 1):
                    if len(text) > MAX_LINE_BYTES:
                        raise _BadLineError(f"longer than {MAX_LINE_BYTES / 1024**2:g} MiB.")
                    if not text.endswith(b"\n"):
                        self.torn = len(text)
                        return
                    yield text[:-1]
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"Cannot read {self.ledger} ({error.strerror or error}).") from error

    def _chain(self, line: Line) -> None:
        if line.digest in self._seen:
            raise _BadLineError("the row is there already.", line.number)
        if not self._seen.issuperset(p for p in line.parents if p != FIRST):
            raise _BadLineError("the row before it was taken away, added or moved.", line.number)
        self._seen.add(line.digest)

    def _compare_head(self, before: Sequence[str]) -> None:
        if self.head is None:
            return
        named = heads(self.head)
        if named == set(self.tips):
            if self.torn:
                self.interrupted = (
                    "The last line of ledger.jsonl is unfinished: an append was interrupted. "
                    "The next append takes it away."
                )
        elif self.tips and not self.torn and named == set(before):
            self.interrupted = (
                "HEAD is one row behind ledger.jsonl: an append was interrupted. "
                "The next append completes it."
            )
        else:
            last = ", ".join(tip[:12] for tip in self.tips) or "there is none"
            self.damage = (
                f"HEAD does not name the last row of ledger.jsonl ({last}): rows were "
                "taken away, or one of the two files was changed."
            )


def heads(path: Path) -> set[str]:
    """Read HEAD: the last row of each branch, or {"damaged"}."""
    try:
        with open_plain(path) as file:
            text = file.read(MAX_HEAD_BYTES)
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror or error}).") from error
    *lines, rest = text.decode("ascii", "replace").split("\n")
    return {"damaged"} if rest or len({*lines}) < len(lines) else {*lines}


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Sort the rows so that each is after those it follows, whatever the order of branches' lines.

    With one branch, this is the order of the file.
    """
    parents = {row.digest: _parents(row) for row in rows}
    if all(row.previous == last for row, last in zip(rows[1:], parents, strict=False)):
        return list(rows)
    known = {row.digest: row for row in rows}
    followed = {parent for named in parents.values() for parent in named}
    ordered: dict[str, Row] = {}
    waiting = sorted(known.keys() - followed, reverse=True)
    while waiting:
        name = waiting[-1]
        missing = [p for p in parents[name] if p != FIRST and p not in ordered]
        if missing:
            waiting += reversed(missing)
            continue
        ordered.setdefault(waiting.pop(), known[name])
    return list(ordered.values())


def write_row(folder: Path, row: Row) -> None:
    """Append `row` durably, and make HEAD name it."""
    path = folder / "ledger.jsonl"
    if not path.exists():
        write_bytes(path, b"")
    with open(path, "ab") as file:
        file.write(jsonl_bytes([row]))
        file.flush()
        os.fsync(file.fileno())
    write_heads(folder, [row.digest])


def write_heads(folder: Path, tips: Sequence[str]) -> None:
    write_text(folder / "HEAD", "".join(f"{tip}\n" for tip in tips))


def recover(folder: Path, reading: Reading) -> None:
    """Finish or undo an append that was interrupted."""
    sweep(folder)
    if reading.torn:
        path = folder / "ledger.jsonl"
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size - reading.torn)
            os.fsync(file.fileno())
    elif reading.interrupted:
        write_heads(folder, reading.tips)


def row_digest(row: Row) -> str:
    return digest(row.model_dump(mode="json", exclude={"digest"}))


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep other processes from appending to the board while the block runs.

    Raises:
        UserError: another process held the board for `LOCK_SECONDS`.
    """
    import filelock

    with contextlib.ExitStack() as held:
        # A board that is read-only, or not there yet, needs no lock.
        if folder.is_dir() and os.access(folder, os.W_OK):
            try:
                held.enter_context(filelock.FileLock(folder / ".lock", timeout=LOCK_SECONDS))
            except filelock.Timeout as error:
                raise UserError(
                    f"Another process has held the board {folder} for {LOCK_SECONDS} s. "
                    "Wait for it to finish, and start again."
                ) from error
            except OSError as error:
                raise UserError(
                    f"Cannot lock the board {folder}: {folder / '.lock'} is not a file of this "
                    f"program ({error.strerror or error}). Check it, and remove it."
                ) from error
        yield


class _BadLineError(Exception):
    """Report what is wrong with a line of the ledger."""

    def __init__(self, what: str, number: int = 0) -> None:
        super().__init__(what)
        self.number = number


def _line(text: bytes, number: int) -> Line:
    frame = _FRAME.fullmatch(text)
    if not frame or hashlib.sha256(b"{" + frame["rest"]).hexdigest() != frame["digest"].decode():
        return _unusual(text, number)
    if int(frame["version"]) != SCHEMA_VERSION:
        raise _BadLineError(_other_version(int(frame["version"])), number)
    entry, previous = frame["entry"], frame["previous"].decode()
    try:
        joined = loads(entry)["heads"] if entry.endswith(b'"kind":"merge"}') else []
        run = _text(frame["run"])
        parents = (previous, *map(str, joined))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _BadLineError(f"not a row ({error}).", number) from error
    return Line(number, text, frame["digest"].decode(), parents, run, entry)


@functools.lru_cache(maxsize=256)  # a run has many rows
def _text(literal: bytes) -> str:
    return str(json.loads(literal))


def _unusual(text: bytes, number: int) -> Line:
    """Read a row with a lone surrogate, which its text escapes, or say what is wrong with it."""
    try:
        value = loads(text)
    except (ValueError, RecursionError) as error:
        raise _BadLineError(f"not JSON ({error}).", number) from error
    if isinstance(value, dict) and value.get("schema_version") != SCHEMA_VERSION:
        raise _BadLineError(_other_version(value.get("schema_version")), number)
    try:
        row = parse(Row, value, "row")
        # Without its digest; a lone surrogate is escaped in the file, and not in the digest.
        intact = digest({k: v for k, v in value.items() if k != "digest"}) == row.digest
        intact = intact and jsonl_bytes([value]) == text + b"\n"
    except UserError as error:
        raise _BadLineError(str(error).removeprefix("row: "), number) from error
    except ValueError as error:  # a number without end
        raise _BadLineError(f"not a row ({error}).", number) from error
    if not intact:
        raise _BadLineError("the row was changed (it does not have its digest).", number)
    entry = canonical_json(value["entry"]).encode("utf-8", "surrogatepass")
    return Line(number, text, row.digest, _parents(row), row.run, entry)


def _parents(row: Row) -> tuple[str, ...]:
    joined = row.entry.heads if row.entry.kind == "merge" else []
    return (row.previous, *joined)


def _other_version(version: object) -> str:
    return (
        f"schema version {version!r}, this program reads {SCHEMA_VERSION}: install the version "
        "that wrote the board, if nobody changed it."
    )


_HEADS = re.compile(rb"(?:[0-9a-f]{64}\n)*")


def merge(base: Path, ours: Path, theirs: Path, name: str) -> None:
    """Merge two versions of a board's file `name`, with the common ancestor `base`, into `ours`.

    Raises:
        UserError: a version is damaged, or lacks a row of `base`; nothing is changed then.
    """
    file = Path(name).name
    if file == "ledger.jsonl":
        merged = _ledgers(base, ours, theirs)
    elif file == "HEAD":
        merged = _heads(base, ours, theirs)
    else:
        raise UserError(f"{name} is not a file of a board that needs merging.")
    write_bytes(ours, merged)


def _ledgers(base: Path, ours: Path, theirs: Path) -> bytes:
    """Return our lines, then those lines of theirs that we lack."""
    before, mine, other = (dict(_lines(path)) for path in (base, ours, theirs))
    for side, rows in (("ours", mine), ("theirs", other)):
        if before.keys() - rows.keys():
            raise UserError(
                f"A row was taken away on one side of the merge ({side}), and a ledger only grows. "
                "Restore it there from the commit before, and merge again."
            )
    return b"".join(text + b"\n" for text in (mine | other).values())


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    reading = Reading(path, None)
    for line in reading:
        yield line.digest, line.text
    if reading.damage or reading.torn:
        why = reading.damage or "its last line is unfinished."
        raise UserError(f"The ledgers cannot be merged: one of them is damaged. {why}")


def _heads(base: Path, ours: Path, theirs: Path) -> bytes:
    """Return the branches of both sides, without those that a side has appended to."""
    before, mine, other = (_names(path) for path in (base, ours, theirs))
    gone = (before.keys() - mine.keys()) | (before.keys() - other.keys())
    return b"".join(name + b"\n" for name in mine | other if name not in gone)


def _names(path: Path) -> dict[bytes, None]:
    text = path.read_bytes()
    if not _HEADS.fullmatch(text):
        raise UserError("HEAD cannot be merged: one of its versions is not a list of digests.")
    return dict.fromkeys(text.splitlines())
