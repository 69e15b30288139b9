"""Read and build a knowledge source: titled pages in passages, in FActScore's SQLite layout.

The table is `documents(title, text)`; a separator joins the passages of a page. The published
`enwiki-20230401.db` is read unchanged, and `build_knowledge` makes such a file from other pages.

Retrievers find the passages of an entity's page that are relevant to a fact: BM25 or embeddings.
"""

from __future__ import annotations

import hashlib
import math
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import UserError
from harness.core.files import file_digest, read_jsonl
from harness.core.outputs import FileKind, check_file
from tasks.factscore.text import split, stems

SEPARATOR = "####SPECIAL####SEPARATOR####"
KNOWLEDGE = FileKind(
    "a knowledge source",
    lambda head: head.startswith(b"SQLite format 3\0") and b"CREATE TABLE documents" in head,
)
PASSAGE_WORDS = 180  # as long as the published passages of 256 tokens are on average

WHOLE = 1 << 30  # bytes
BLOCK, BLOCKS = 1 << 16, 1024

MAX_PAGE_BYTES = 64 * 1024 * 1024
MAX_QUERY_SECONDS = 60
MAX_ROWS = 100  # of a query about the table itself, such as its columns
SCHEMA = (
    "SELECT type, sql FROM sqlite_master "
    "WHERE lower(name) = 'documents' AND type IN ('table', 'view')"
)
STEPS_PER_CHECK = 10_000  # of SQLite's virtual machine: about a millisecond

_MARKS = re.compile(r"(?:</?s>)+")


class Knowledge:
    """Pages by title, read-only. Use it as a context manager, or call `close`.

    The file is untrusted: only a table is read, never a view or a computed column, and a query that
    takes too long or returns too much is stopped.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`.

        Raises:
            UserError: missing, not a SQLite database, or without the table.
        """
        if not path.is_file():
            raise UserError(
                f"There is no knowledge source {path}. Name a SQLite file with a table "
                "documents(title, text), or make one with build_knowledge."
            )
        self.path = path
        _require_checkpointed(path)
        # Immutable: a journal next to the file is not part of its identity, and is not read.
        address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        self._connection = sqlite3.connect(address, uri=True)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_PAGE_BYTES)
        self._stop_at = math.inf
        self._connection.set_progress_handler(self._is_late, STEPS_PER_CHECK)
        try:
            self._query("PRAGMA trusted_schema = OFF")
            kind = self._query(SCHEMA)
            columns = self._query("SELECT name, hidden FROM pragma_table_xinfo('documents')")
            if fault := _fault(kind, columns):
                raise sqlite3.DatabaseError(fault)
            self._query("SELECT title, text FROM documents LIMIT 1")
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self._connection.close()
            raise UserError(
                f"{path} is not a knowledge source ({self._said(error)}): a SQLite file with a "
                "table documents(title, text) is expected."
            ) from error

    def page(self, title: str) -> list[str] | None:
        """Return the passages of the page called `title`, in order; None if there is none.

        Raises:
            UserError: the file can no longer be read, or the page is not text.
        """
        try:
            rows = self._query("SELECT text FROM documents WHERE title = ? LIMIT 1", _utf8(title))
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise UserError(f"Cannot read {self.path} ({self._said(error)}).") from error
        if not rows:
            return None
        text = rows[0][0]
        if not isinstance(text, str):
            raise UserError(
                f"The page '{title}' in {self.path} is not text. Make the knowledge source again."
            )
        passages = (_MARKS.sub(" ", part).strip() for part in text.split(SEPARATOR))
        return [passage for passage in passages if passage]

    def _query(self, sql: str, *values: str) -> list[tuple[Any, ...]]:
        """Run one query within the time limit and return at most `MAX_ROWS` rows."""
        self._stop_at = time.monotonic() + MAX_QUERY_SECONDS
        return self._connection.execute(sql, values).fetchmany(MAX_ROWS)

    def _is_late(self) -> int:
        return int(time.monotonic() > self._stop_at)

    def _said(self, error: Exception) -> str:
        if isinstance(error, sqlite3.OperationalError) and "interrupted" in str(error):
            return (
                f"a query took longer than {MAX_QUERY_SECONDS} s; a large table needs an index on "
                "title"
            )
        if isinstance(error, sqlite3.DataError):
            return f"a page is larger than {MAX_PAGE_BYTES:,} bytes"
        return str(error)

    @property
    def digest(self) -> str:
        """Identity of the file: sha256 of its content.

        For a file of more than `WHOLE` bytes, such as all of Wikipedia, its size and `BLOCKS`
        evenly spaced blocks stand for the content, so that a run need not read 20 GB first.
        """
        size = self.path.stat().st_size
        if size <= WHOLE:
            return file_digest(self.path)
        found = hashlib.sha256(f"{size}".encode())
        with open(self.path, "rb") as file:
            for number in range(BLOCKS):
                file.seek((size - BLOCK) * number // (BLOCKS - 1))
                found.update(file.read(BLOCK))
        return found.hexdigest()

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _require_checkpointed(path: Path) -> None:
    """Refuse a database with changes in a journal, which the digest does not cover."""
    for ending in ("-wal", "-journal"):
        journal = path.with_name(f"{path.name}{ending}")
        if journal.is_file() and journal.stat().st_size:
            raise UserError(
                f"{journal} holds changes that are not in {path} yet. Close the program that "
                "writes it, or open and close the file once with sqlite3."
            )


def _fault(kind: Sequence[tuple[Any, ...]], columns: Sequence[tuple[Any, ...]]) -> str:
    """Return why `documents` is not a plain table, or ""."""
    if not kind:
        return "no such table: documents"
    if kind[0][0] != "table":
        return f"documents is a {kind[0][0]}, whose rows are computed, and is not read"
    if re.match(r"\s*CREATE\s+VIRTUAL", str(kind[0][1]), re.IGNORECASE):
        return "documents is a virtual table, and is not read"
    hidden = {str(name).lower(): flag for name, flag in columns}
    for name in ("title", "text"):
        if name not in hidden:
            return f"no such column: {name}"
        if hidden[name]:
            return f"the column {name} is computed, and is not read"
    return ""


def build_knowledge(jsonl: Path, db: Path) -> int:
    """Build the knowledge source `db` from pages {"title", "text"} per line; return their number.

    `text` is a text or a list of paragraphs. Passages are whole sentences of up to `PASSAGE_WORDS`
    words in all. An existing knowledge source is replaced after everything is read.

    Raises:
        UserError: a line is malformed or repeats a title, there is no page, or writing fails.
    """
    written = check_file(db, KNOWLEDGE, [jsonl])
    pages: dict[str, str] = {}
    for number, row in read_jsonl(jsonl):
        where = f"{jsonl}, line {number}"
        title = row.get("title")
        if not isinstance(title, str) or not title.strip():
            raise UserError(f"{where}: 'title' has to be a name.")
        title = _utf8(title)
        if title in pages:
            raise UserError(f"{where}: there is a page called '{title}' already; join the two.")
        pages[title] = SEPARATOR.join(passages_of(_text(row.get("text"), where)))
    if not pages:
        raise UserError(f"{jsonl} holds no pages.")
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE TABLE documents (title PRIMARY KEY, text)")
        connection.executemany("INSERT INTO documents VALUES (?, ?)", pages.items())
        connection.commit()
        written.write(connection.serialize())
    finally:
        connection.close()
    return len(pages)


def _text(value: Any, where: str) -> str:
    paragraphs = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str) for part in paragraphs) or not "".join(paragraphs).strip():
        raise UserError(f"{where}: 'text' has to be a text or a list of paragraphs.")
    return _utf8("\n".join(paragraphs)).replace(SEPARATOR, " ")


def _utf8(text: str) -> str:
    """Replace lone surrogates, which SQLite cannot store."""
    return text.encode("utf-8", "replace").decode()


def passages_of(text: str, words: int = PASSAGE_WORDS) -> list[str]:
    """Split `text` into passages of whole sentences, up to `words` words each.

    A longer sentence is cut.
    """
    passages: list[list[str]] = [[]]
    for sentence in split(text):
        words_left = sentence.split()
        if passages[-1] and len(passages[-1]) + len(words_left) > words:
            passages.append([])
        while len(passages[-1]) + len(words_left) > words:
            room = words - len(passages[-1])
            passages[-1] += words_left[:room]
            words_left = words_left[room:]
            passages.append([])
        passages[-1] += words_left
    return [" ".join(passage) for passage in passages if passage]


PAGES, QUERIES = 1024, 65_536  # kept in memory

Encode = Callable[[Sequence[str]], NDArray[Any]]


class Bm25:
    """Retrieve the k passages with the highest BM25 over word stems; each page is indexed once."""

    def __init__(self, k: int) -> None:
        self.name = f"bm25 k{k}"
        self._k = k
        self._index = lru_cache(PAGES)(_index)
        self._cached = lru_cache(QUERIES)(self._best)

    def retrieve(self, page: tuple[str, ...], query: str) -> tuple[str, ...]:
        """See `Retriever.retrieve`."""
        return self._cached(page, query)

    def _best(self, page: tuple[str, ...], query: str) -> tuple[str, ...]:
        return _top(page, self._index(page)(list(dict.fromkeys(stems(query)))), self._k)


class Dense:
    """Retrieve the k passages whose embeddings have the largest inner product with the query's."""

    def __init__(self, model: str, k: int, encode: Encode | None = None) -> None:
        """Use `encode`, which returns one row per text, or load `model`.

        Raises:
            UserError: sentence-transformers is not installed.
        """
        if encode is None and find_spec("sentence_transformers") is None:
            raise UserError(
                "Dense retrieval needs sentence-transformers: install it with "
                "pip install 'rlrf-harness[dense]', or choose retriever: bm25."
            )
        self.name = f"dense {model} k{k}"
        self._k = k
        self._encode = encode or _encoder(model)
        self._vectors = lru_cache(PAGES)(self._encode)
        self._cached = lru_cache(QUERIES)(self._best)

    def retrieve(self, page: tuple[str, ...], query: str) -> tuple[str, ...]:
        """See `Retriever.retrieve`."""
        return self._cached(page, query)

    def _best(self, page: tuple[str, ...], query: str) -> tuple[str, ...]:
        if not page:
            return ()
        return _top(page, self._vectors(page) @ self._encode((query,))[0], self._k)


def _top(page: tuple[str, ...], scores: NDArray[Any], k: int) -> tuple[str, ...]:
    """Return the k passages with the highest scores; of equals, the earlier one."""
    return tuple(page[i] for i in np.argsort(-scores, kind="stable")[:k])


def _index(page: tuple[str, ...]) -> Callable[[list[str]], NDArray[Any]]:
    """Return a function from the stems of a query to the BM25 score of each passage."""
    import bm25s

    passages = [stems(passage) for passage in page]
    if not any(passages):
        return lambda _query: np.zeros(len(page))
    index = bm25s.BM25()
    index.index(passages, show_progress=False)
    return lambda query: np.asarray(index.get_scores(query) if query else np.zeros(len(page)))


def _encoder(model: str) -> Encode:
    """Return the encoder of `model`, loaded at first use."""

    @cache
    def loaded() -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(model, trust_remote_code=False)

    return lambda texts: np.asarray(loaded().encode(list(texts), show_progress_bar=False))
