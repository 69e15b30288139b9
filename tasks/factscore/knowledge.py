"""A knowledge source: titled pages in passages, in the SQLite layout that FActScore published.

One table `documents(title, text)`; the passages of a page are joined by a separator. A published
`enwiki-20230401.db` is read as it is, and `build_knowledge` makes such a file of one's own pages.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.errors import UserError
from harness.store import file_digest, read_jsonl, write_bytes
from tasks.factscore.sentences import split

SEPARATOR = "####SPECIAL####SEPARATOR####"
PASSAGE_WORDS = 180  # as long as the published passages of 256 tokens are on average

WHOLE = 1 << 30  # bytes
BLOCK, BLOCKS = 1 << 16, 1024

_MARKS = re.compile(r"(?:</?s>)+")


class Knowledge:
    """Pages by title, read-only. Use it as a context manager, or call `close`."""

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
        self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            self._connection.execute("SELECT title, text FROM documents LIMIT 1").fetchone()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self._connection.close()
            raise UserError(
                f"{path} is not a knowledge source ({error}): a SQLite file with a table "
                "documents(title, text) is expected."
            ) from error

    def page(self, title: str) -> list[str] | None:
        """The passages of the page called `title`, in order; None if there is none.

        Raises:
            UserError: the file cannot be read any more.
        """
        try:
            row = self._connection.execute(
                "SELECT text FROM documents WHERE title = ?", (_utf8(title),)
            ).fetchone()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise UserError(f"Cannot read {self.path} ({error}).") from error
        if row is None:
            return None
        passages = (_MARKS.sub(" ", part).strip() for part in str(row[0]).split(SEPARATOR))
        return [passage for passage in passages if passage]

    @property
    def digest(self) -> str:
        """Identity of the file: sha256 of its content.

        Of a file of more than `WHOLE` bytes, such as all of Wikipedia, its size and `BLOCKS`
        evenly spaced blocks stand for the whole, so that a run does not begin by reading 20 GB.
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


def build_knowledge(jsonl: Path, db: Path) -> int:
    """Make the knowledge source `db` of pages {"title", "text"}, one a line; return their number.

    `text` is one text or a list of paragraphs. Passages are whole sentences, up to
    `PASSAGE_WORDS` words. An existing `db` is replaced, once all is read.

    Raises:
        UserError: a line is unfit or repeats a title, there is no page, or the disk refuses.
    """
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
        write_bytes(db, connection.serialize())
    finally:
        connection.close()
    return len(pages)


def _text(value: Any, where: str) -> str:
    paragraphs = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str) for part in paragraphs) or not "".join(paragraphs).strip():
        raise UserError(f"{where}: 'text' has to be a text or a list of paragraphs.")
    return _utf8("\n".join(paragraphs)).replace(SEPARATOR, " ")


def _utf8(text: str) -> str:
    """Without lone surrogates, which SQLite cannot store."""
    return text.encode("utf-8", "replace").decode()


def passages_of(text: str, words: int = PASSAGE_WORDS) -> list[str]:
    """Whole sentences of `text`, as many as fit into `words` words a passage.

    A sentence that is longer by itself is cut.
    """
    passages: list[list[str]] = [[]]
    for sentence in split(text):
        said = sentence.split()
        if passages[-1] and len(passages[-1]) + len(said) > words:
            passages.append([])
        while len(passages[-1]) + len(said) > words:
            room = words - len(passages[-1])
            passages[-1] += said[:room]
            said = said[room:]
            passages.append([])
        passages[-1] += said
    return [" ".join(passage) for passage in passages if passage]
