"""`rlrf knowledge`: a source is built of one's own pages, and shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.core.errors import UserError
from rlrf.cli.knowledge import knowledge


def rlrf(*arguments: object) -> None:
    knowledge.main([str(argument) for argument in arguments], standalone_mode=False)


@pytest.fixture
def db(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    pages = tmp_path / "pages.jsonl"
    pages.write_text('{"title": "Ada Lund", "text": "Ada Lund was a painter."}\n')
    rlrf("build", pages, tmp_path / "own.db", "--json")
    assert json.loads(capsys.readouterr().out) == {
        "knowledge": str(tmp_path / "own.db"),
        "pages": 1,
    }
    return tmp_path / "own.db"


def test_a_page_that_was_built_is_shown(db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rlrf("show", db, "Ada Lund")
    assert capsys.readouterr().out == "Ada Lund was a painter.\n"
    rlrf("show", db, "Ada Lund", "--json")
    assert json.loads(capsys.readouterr().out)["passages"] == ["Ada Lund was a painter."]


def test_building_says_how_many_pages_there_are(
    tmp_path: Path, db: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rlrf("build", tmp_path / "pages.jsonl", db)
    assert capsys.readouterr().out == f"{db} holds 1 pages.\n"


def test_a_title_that_is_not_there_is_an_error(db: Path) -> None:
    with pytest.raises(UserError, match="no page called 'ada'"):
        rlrf("show", db, "ada")
    with pytest.raises(UserError, match="There is no file"):
        rlrf("build", db.parent / "absent.jsonl", db)
