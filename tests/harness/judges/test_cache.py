"""Replies on disk: kept for good, shared by processes, noticed when damaged."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.core.schema import Reply
from harness.judges.cache import Cache, default_path

KEY = "k" * 64


@pytest.fixture
def cache(tmp_path):
    cache = Cache(tmp_path / "new" / "judge.sqlite")
    yield cache
    cache.close()


@settings(max_examples=30, deadline=None)
@given(
    st.text(st.characters(exclude_categories=[])),
    st.none() | st.dictionaries(st.text(), st.floats(max_value=0, allow_infinity=False)),
)
def test_what_is_kept_comes_back_unchanged(tmp_path_factory, text, logprobs):
    path = tmp_path_factory.mktemp("cache") / "judge.sqlite"
    kept = Reply(text=text, logprobs=logprobs)
    first = Cache(path)
    assert first.put(KEY, kept) == kept
    first.close()
    second = Cache(path)
    assert second.get([KEY, "other"]) == {KEY: kept}
    second.close()


def test_the_first_reply_stays(cache):
    first, second = Reply(text="first"), Reply(text="second")
    cache.put(KEY, first)
    assert cache.put(KEY, second) == first
    assert cache.get([KEY]) == {KEY: first}


def test_replies_can_neither_be_changed_nor_deleted(cache):
    cache.put(KEY, Reply(text="kept"))
    db = sqlite3.connect(cache.path)
    for statement in ("UPDATE replies SET reply = '{}'", "DELETE FROM replies"):
        with pytest.raises(sqlite3.IntegrityError, match="replies are never"):
            db.execute(statement)
    db.close()


def test_more_keys_than_fit_into_one_query_are_found(cache):
    for i in range(520):
        cache.put(f"{i}", Reply(text=f"reply {i}"))
    found = cache.get([f"{i}" for i in range(600)])
    assert found == {f"{i}": Reply(text=f"reply {i}") for i in range(520)}


def test_only_its_owner_can_read_it(cache):
    cache.put(KEY, Reply(text="private"))
    for file in cache.path.parent.iterdir():
        assert not stat.S_IMODE(file.stat().st_mode) & 0o077, file


def test_it_lies_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "rlrf" / "judge.sqlite"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_path() == tmp_path / ".cache" / "rlrf" / "judge.sqlite"


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n" * 1000)
    with pytest.raises(UserError, match="damaged or is not a cache"):
        Cache(path)
    assert path.read_text() == "my notes\n" * 1000


def test_another_programs_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "other.sqlite"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE replies (key, reply, sha256)")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(UserError, match="another program's database"):
        Cache(path)
    assert path.read_bytes() == before


def test_another_versions_cache_is_refused(cache):
    db = sqlite3.connect(cache.path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(UserError, match="another version"):
        Cache(cache.path)


def test_a_folder_in_its_place_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be opened"):
        Cache(tmp_path)


def test_a_damaged_file_is_an_error_not_a_reply(cache):
    for i in range(200):
        cache.put(f"{i:064}", Reply(text=f"reply {i}" * 20))
    cache.close()
    content = bytearray(cache.path.read_bytes())
    content[4096:20480] = bytes(16384)
    cache.path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged|cannot be used"):
        Cache(cache.path).get([f"{i:064}" for i in range(200)])


def test_a_damaged_schema_is_an_error_though_its_names_are_no_text(cache):
    cache.put(KEY, Reply(text="yes"))
    cache.close()
    content = cache.path.read_bytes()
    assert b"CREATE TABLE replies" in content
    cache.path.write_bytes(content.replace(b"CREATE TABLE replies", b"CREATE TABLE repli\x98s"))
    with pytest.raises(UserError, match=r"damaged|cannot be used"):
        Cache(cache.path).get([KEY])


def test_a_reply_that_was_tampered_with_is_an_error(cache):
    cache.put(KEY, Reply(text="score 1"))
    cache.close()
    content = cache.path.read_bytes()
    assert content.count(b"score 1") == 1
    cache.path.write_bytes(content.replace(b"score 1", b"score 5"))
    with pytest.raises(UserError, match="damaged"):
        Cache(cache.path).get([KEY])


WRITER = """
import sys
from pathlib import Path
from harness.judges.cache import Cache
from harness.core.schema import Reply
path, name = Path(sys.argv[1]), sys.argv[2]
sys.stdin.readline()
cache = Cache(path)
for i in range(100):
    print(cache.put(f"{i}", Reply(text=f"{name} {i}")).text)
"""


def test_processes_that_start_at_once_agree_on_every_reply(tmp_path):
    path = tmp_path / "judge.sqlite"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "abcd"
    ]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    said = [writer.communicate(timeout=60)[0] for writer in writers]
    assert all(writer.returncode == 0 for writer in writers)
    assert len(set(said)) == 1
    assert len(said[0].splitlines()) == 100
