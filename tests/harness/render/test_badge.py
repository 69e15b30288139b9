"""Badges: which number stands on them, and that no name breaks the picture."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest
from helpers.boards import Loop, answers, run_once
from helpers.quiz import make
from hypothesis import given
from hypothesis import strategies as st

import tasks
from harness.core.errors import UserError
from harness.render.badge import Badge, badge

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    monkeypatch.setattr(tasks, "names", list)
    return run_once(tmp_path)


def test_the_last_promoted_model_stands_on_it(loop: Loop) -> None:
    loop.board.add_evaluation(make(answers(9), model="M2"), "M2", "r")
    made = badge(loop.board.rows(), "quiz")
    assert made == Badge("M1 quiz accuracy", "0.583 [0.457, 0.699] n=60")
    assert made.endpoint() == {
        "schemaVersion": 1,
        "label": "M1 quiz accuracy",
        "message": "0.583 [0.457, 0.699] n=60",
        "color": "blue",
    }


def test_model_metric_and_split_can_be_named(loop: Loop) -> None:
    rows = [{"accuracy": 1.0, "grade": 3.0}] * 5
    loop.board.add_evaluation(make(rows, split="sealed"), "M9", "r")
    made = badge(loop.board.rows(), "quiz", "grade", "M9", "sealed")
    assert made == Badge("M9 quiz grade", "3 [3, 3] n=5")


def test_what_was_withdrawn_is_on_no_badge(loop: Loop) -> None:
    loop.board.invalidate(loop.board.rows()[1].digest, "x")
    assert badge(loop.board.rows(), "quiz").label == "M0 quiz accuracy"
    with pytest.raises(UserError, match="no evaluation of M1 on the task quiz"):
        badge(loop.board.rows(), "quiz", name="M1")


def test_what_is_not_there_is_a_sentence(loop: Loop) -> None:
    with pytest.raises(UserError, match="no number for 'grade'; it has accuracy"):
        badge(loop.board.rows(), "quiz", "grade")
    with pytest.raises(UserError, match="no evaluation of M1 on the split sealed on the task quiz"):
        badge(loop.board.rows(), "quiz", split="sealed")


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_makes_a_picture(label: str, message: str) -> None:
    picture = fromstring(Badge(label, message).svg())
    texts = [element.text or "" for element in picture.iter(f"{SVG}text")]
    assert len(texts) == 2
    assert [child.tag for child in picture] == [f"{SVG}{t}" for t in ("title", "rect", "rect", "g")]
    width = sum(float(rect.get("width") or 0) for rect in picture.iter(f"{SVG}rect"))
    assert float(picture.get("width") or 0) == width


def test_text_is_shown_as_it_is() -> None:
    picture = fromstring(Badge("<b>&\"'", "1 < 2").svg())
    assert [t.text for t in picture.iter(f"{SVG}text")] == ["<b>&\"'", "1 < 2"]
    assert picture.get("aria-label") == "<b>&\"': 1 < 2"
