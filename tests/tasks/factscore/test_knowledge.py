"""Knowledge sources: the published layout is read, one's own is made, anything else is refused."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path

import pytest

from harness.core.errors import UserError
from tasks.factscore import knowledge
from tasks.factscore.knowledge import SEPARATOR, Knowledge, build_knowledge, passages_of


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_published_layout_is_read(tmp_path: Path) -> None:
    db = tmp_path / "wiki 100%.db"
    connection = sqlite3.connect(db)
    connection.execute("CREATE TABLE documents (title PRIMARY KEY, text)")
    page = f"<s>Ada Lund painted.</s><s>Life. She lived.</s>{SEPARATOR}Later she sang.</s>"
    connection.execute("INSERT INTO documents VALUES (?, ?)", ("Ada Lund", page))
    connection.commit()
    connection.close()
    with Knowledge(db) as source:
        assert source.page("Ada Lund") == [
            "Ada Lund painted. Life. She lived.",
            "Later she sang.",
        ]
        assert source.page("ada lund") is None
        assert source.page("'; DROP TABLE documents; --") is None
        assert source.page("\ud800") is None


def test_what_is_built_is_read_back(tmp_path: Path) -> None:
    pages = lines(
        tmp_path / "pages.jsonl",
        {"title": "Ada Lund", "text": "She painted. " * 100},
        {"title": "Łukasz", "text": ["One paragraph.", f"Another{SEPARATOR}one \ud800."]},
    )
    db = tmp_path / "new" / "own.db"
    assert build_knowledge(pages, db) == 2
    with Knowledge(db) as source:
        first = source.page("Ada Lund")
        assert first is not None and len(first) == 2
        assert " ".join(first).split() == ["She", "painted."] * 100
        assert source.page("Łukasz") == ["One paragraph. Another one ?."]
        assert source.page("Nobody") is None


def test_building_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    pages = lines(tmp_path / "pages.jsonl", {"title": "A", "text": "b c."})
    for name in ("one.db", "two.db", "one.db"):
        build_knowledge(pages, tmp_path / name)
    assert (tmp_path / "one.db").read_bytes() == (tmp_path / "two.db").read_bytes()


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"text": "x"}, "'title' has to be a name"),
        ({"title": " ", "text": "x"}, "'title' has to be a name"),
        ({"title": "B"}, "'text' has to be"),
        ({"title": "B", "text": ["x", 5]}, "'text' has to be"),
        ({"title": "B", "text": " "}, "'text' has to be"),
        ({"title": "A", "text": "again"}, "already"),
    ],
)
def test_an_unfit_page_is_named_and_nothing_is_written(
    tmp_path: Path, row: object, fault: str
) -> None:
    pages = lines(tmp_path / "pages.jsonl", {"title": "A", "text": "b."}, row)
    with pytest.raises(UserError, match=f"line 2: .*{fault}"):
        build_knowledge(pages, tmp_path / "own.db")
    assert not (tmp_path / "own.db").exists()


def test_no_pages_are_no_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no pages"):
        build_knowledge(lines(tmp_path / "pages.jsonl"), tmp_path / "own.db")


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.db"
    text.write_text("this is not a database, however long it goes on " * 100)
    empty = tmp_path / "empty.db"
    empty.touch()
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE documents (name)")
    connection.close()
    for path in (text, empty, other):
        with pytest.raises(UserError, match=f"{path.name} is not a knowledge source"):
            Knowledge(path)
    for path in (tmp_path / "absent.db", tmp_path):
        with pytest.raises(UserError, match="There is no knowledge source"):
            Knowledge(path)


ENDLESS = (
    "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) "
    "SELECT 'page ' || n AS title, 'text' AS text FROM c"
)
COMPUTED = {
    "an endless view": ([f"CREATE VIEW documents AS {ENDLESS}"], "is a view"),
    "a huge view": (
        ["CREATE VIEW Documents AS SELECT 'x' AS title, hex(zeroblob(900000000)) AS text"],
        "is a view",
    ),
    "a virtual table": (["CREATE VIRTUAL TABLE documents USING fts5(title, text)"], "virtual"),
    "a computed text": (
        ["CREATE TABLE documents (title, text AS (hex(zeroblob(400000000))))"],
        "the column text is computed",
    ),
    "a computed title": (["CREATE TABLE documents (text, title AS ('x'))"], "title is computed"),
    "a huge page": (
        [
            "CREATE TABLE documents (title, text)",
            "INSERT INTO documents VALUES ('x', hex(zeroblob(40000000)))",
        ],
        "a page is larger than",
    ),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("statements", "said"), COMPUTED.values(), ids=COMPUTED)
def test_a_table_that_computes_its_pages_is_refused(
    tmp_path: Path, statements: list[str], said: str
) -> None:
    db = tmp_path / "hostile.db"
    with sqlite3.connect(db) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
    with pytest.raises(UserError, match=said):
        Knowledge(db)


@pytest.mark.timeout(60)
def test_a_query_that_takes_too_long_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = tmp_path / "no index.db"
    with sqlite3.connect(db) as connection:
        connection.execute("CREATE TABLE documents (title, text)")
        connection.execute(
            "INSERT INTO documents WITH RECURSIVE c(n) AS "
            "(SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 100000) SELECT n, 'text' FROM c"
        )
    connection.close()
    with Knowledge(db) as source:
        assert source.page("nobody") is None
        monkeypatch.setattr(knowledge, "MAX_QUERY_SECONDS", -1)
        with pytest.raises(UserError, match="needs an index on title"):
            source.page("nobody")


def test_changes_in_another_file_are_not_left_out_in_silence(tmp_path: Path) -> None:
    db = tmp_path / "live.db"
    writer = sqlite3.connect(db)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("CREATE TABLE documents (title, text)")
    writer.commit()
    with pytest.raises(UserError, match="holds changes that are not in"):
        Knowledge(db)
    writer.close()
    with Knowledge(db) as source:
        assert source.page("x") is None


@pytest.mark.parametrize("value", [None, b"bytes", 7])
def test_a_page_that_is_not_text_is_an_error(tmp_path: Path, value: object) -> None:
    db = tmp_path / "odd.db"
    with sqlite3.connect(db) as connection:
        connection.execute("CREATE TABLE documents (title, text)")
        connection.execute("INSERT INTO documents VALUES ('x', ?)", (value,))
    connection.close()
    with Knowledge(db) as source, pytest.raises(UserError, match=r"The page 'x' in .* is not text"):
        source.page("x")


def test_a_source_is_identified_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = lines(tmp_path / "pages.jsonl", {"title": "A", "text": "b c. " * 5_000})
    other = lines(tmp_path / "other.jsonl", {"title": "A", "text": "b d. " * 5_000})
    build_knowledge(pages, tmp_path / "one.db")
    build_knowledge(other, tmp_path / "two.db")

    def digests() -> list[str]:
        found = []
        for name in ("one.db", "two.db"):
            with Knowledge(tmp_path / name) as source:
                found.append(source.digest)
        return found

    whole = digests()
    assert whole[0] == hashlib.sha256((tmp_path / "one.db").read_bytes()).hexdigest()
    assert whole[0] != whole[1]
    monkeypatch.setattr(knowledge, "WHOLE", 1_000)
    monkeypatch.setattr(knowledge, "BLOCK", 64)
    sampled = digests()
    assert sampled[0] != sampled[1]
    assert sampled == digests()
    assert not set(sampled) & set(whole)


def test_passages_are_whole_sentences_and_long_ones_are_cut() -> None:
    assert passages_of("One two. Three four. Five six.", words=4) == [
        "One two. Three four.",
        "Five six.",
    ]
    assert passages_of("a b c d e f g.", words=3) == ["a b c", "d e f", "g."]
    assert passages_of("One two. a b c d e.", words=3) == ["One two. a", "b c d", "e."]
    assert passages_of("") == []


def test_real_pages_are_held_whole(tmp_path: Path, shared_data: Path) -> None:
    real = shared_data / "factscore" / "knowledge" / "kb_wikipedia_157.jsonl"
    rows = [json.loads(line) for line in real.read_text(encoding="utf-8").splitlines()]
    pages = lines(
        tmp_path / "pages.jsonl",
        *({"title": row["title"], "text": " ".join(row["passages"])} for row in rows),
    )
    assert build_knowledge(pages, tmp_path / "wiki.db") == len(rows) == 157
    with Knowledge(tmp_path / "wiki.db") as source:
        for row in rows:
            page = source.page(row["title"])
            assert page is not None
            words = " ".join(row["passages"]).replace("<s>", " ").replace("</s>", " ").split()
            assert " ".join(page).split() == words
