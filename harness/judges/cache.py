"""Keep judge replies on disk: each is asked once and never changed.

One SQLite file in WAL mode: several processes may share it, and a reply is on disk before it is
used. Each row has the sha256 of its content, so damage is detected and not scored. WAL needs a
local disk; NFS will not do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from tenacity import Retrying, retry_if_exception_message, stop_after_delay, wait_random

from harness.core.errors import UserError
from harness.core.schema import Reply

APPLICATION = 0x524C5246  # "RLRF", SQLite's mark of the program that owns the file
VERSION = 1
WAIT_SECONDS = 60.0  # for another process's write
KEYS_PER_QUERY = 500

SCHEMA = (
    "CREATE TABLE replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL, sha256 TEXT NOT NULL) "
    "STRICT, WITHOUT ROWID",
    "CREATE TRIGGER no_update BEFORE UPDATE ON replies "
    "BEGIN SELECT RAISE(ABORT, 'replies are never changed'); END",
    "CREATE TRIGGER no_delete BEFORE DELETE ON replies "
    "BEGIN SELECT RAISE(ABORT, 'replies are never deleted'); END",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)


def default_path() -> Path:
    """Return `rlrf/judge.sqlite` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rlrf" / "judge.sqlite"


class Cache:
    """Replies, keyed by the digest of everything that decides them.

    Raises:
        UserError: from every method: the file is damaged, belongs to another program, or cannot
            be written. Its content is not touched.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Prompts may be private, and SQLite would make the file readable for all.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise UserError(
                f"The judge's cache {path} cannot be opened ({error.strerror or error}). "
                "Name another file as 'cache', on a local disk."
            ) from error
        with self._errors():
            self._db = sqlite3.connect(
                path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with self._errors():
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def get(self, keys: Sequence[str]) -> dict[str, Reply]:
        """Return the known replies among `keys`, by key."""
        replies: dict[str, Reply] = {}
        for start in range(0, len(keys), KEYS_PER_QUERY):
            batch = keys[start : start + KEYS_PER_QUERY]
            marks = ",".join("?" * len(batch))
            query = f"SELECT key, reply, sha256 FROM replies WHERE key IN ({marks})"  # noqa: S608
            with self._errors():
                rows = self._db.execute(query, batch).fetchall()
            replies |= {key: self._read(key, text, check) for key, text, check in rows}
        return replies

    def put(self, key: str, reply: Reply) -> Reply:
        """Store `reply` durably and return the stored reply.

        That is another one if another process was first, so that all score the same reply.
        """
        text = json.dumps({"text": reply.text, "logprobs": reply.logprobs})
        with self._errors():
            self._db.execute(
                "INSERT INTO replies VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (key, text, _check(key, text)),
            )
        return self.get([key])[key]

    def _prepare(self) -> None:
        if self._is_new():
            # Of two processes that switch a file to WAL at once, one gets an error at once.
            for attempt in Retrying(
                retry=retry_if_exception_message(match=".*locked"),
                wait=wait_random(0.01, 0.1),
                stop=stop_after_delay(WAIT_SECONDS),
                reraise=True,
            ):
                with attempt:
                    self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                if self._is_new():
                    for statement in SCHEMA:
                        self._db.execute(statement)
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
        if self._pragma("application_id") != APPLICATION:
            raise UserError(
                f"{self.path} is another program's database. Name another file as 'cache'."
            )
        if self._pragma("user_version") != VERSION:
            raise UserError(
                f"{self.path} was made by another version of this program. "
                "Name another file as 'cache'."
            )
        self._db.execute("PRAGMA synchronous = FULL")

    def _is_new(self) -> bool:
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return not tables and self._pragma("application_id") == 0

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def _read(self, key: str, text: str, check: str) -> Reply:
        if check != _check(key, text):
            raise UserError(_damaged(self.path))
        return Reply.model_validate(json.loads(text))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UserError(
                f"The judge's cache {self.path} cannot be used ({error}). Its replies are kept: "
                "free some space or name another file as 'cache', and start again."
            ) from error
        # Names in a damaged file may not be text, and then SQLite's messages are not either.
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise UserError(_damaged(self.path)) from error


def _damaged(path: Path) -> str:
    return (
        f"The judge's cache {path} is damaged or is not a cache. "
        "Move it away or name another file as 'cache'; the replies are then asked for again."
    )


def _check(key: str, text: str) -> str:
    return hashlib.sha256(f"{key}\n{text}".encode()).hexdigest()
