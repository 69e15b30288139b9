"""The page of token rewards: what it marks and how, and that text stays text."""

from __future__ import annotations

import pytest
from helpers.pages import HOSTILE, parse

from harness.core.schema import MetricResult
from harness.core.text import visible
from harness.render.html import rewrites
from harness.render.html.rewrites import Rewritten, Token

SHARE = MetricResult(mean=0.75, stderr=0.1, low=0.5, high=0.9, n=18)


def one(text: str = "8", reward: float = -0.1) -> Rewritten:
    return Rewritten(
        task="sums",
        index=3,
        prompt="What is 3+4?",
        right=False,
        response=[Token("It is "), Token(text, reward=reward), Token(".", reward=reward / 4)],
        rewrite=[Token("It is "), Token("7", edited=True)],
    )


def test_each_reward_is_marked_by_its_size_and_said() -> None:
    page = parse(rewrites([one(), one("seven", 0.5)], 9))
    marked = [span for span in page.all("span") if "title" in span]
    assert [(span["class"], span["title"]) for span in marked] == [
        ("loses l4", "\N{MINUS SIGN}0.100"),
        ("loses l1", "\N{MINUS SIGN}0.025"),
        ("earns l4", "+0.500"),
        ("earns l1", "+0.125"),
    ]
    assert page.text["ins"] == ["edited", "7", "7"]  # the legend's first
    assert "2 of 9 responses" in page.shown


def test_a_reward_at_the_end_of_floats_is_marked_like_any_other() -> None:
    page = parse(rewrites([one("seven", 1.7e308)], 1))
    marked = [span["class"] for span in page.all("span") if "title" in span]
    assert marked == ["earns l4", "earns l1"]


def test_marks_do_not_rest_on_colour_alone() -> None:
    (style,) = parse(rewrites([one()], 1)).text["style"]
    assert "underline solid" in style and "underline dotted" in style
    legend = parse(rewrites([one()], 1)).shown
    assert "underlined" in legend and "dotted" in legend and "framed" in legend


def test_how_the_model_does_stands_with_its_interval() -> None:
    page = parse(rewrites([one()], 1, [("sums", "repaired", SHARE)]))
    assert "repaired 0.750 [0.500, 0.900] 18" in page.shown
    assert not parse(rewrites([one()], 1)).all("table")


def test_it_asks_for_nothing_and_runs_nothing_else() -> None:
    page = parse(rewrites([one()], 1))
    policy = page.all("meta")[1]["content"]
    assert policy is not None and "default-src 'none'" in policy and "style-src 'sha256-" in policy
    assert not page.all("link") and not page.all("img")
    assert rewrites([one()], 1) == rewrites([one()], 1)


def test_nothing_to_show_is_said() -> None:
    assert "0 of 0 responses" in parse(rewrites([], 0)).shown


@pytest.mark.parametrize("nasty", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_text(nasty: str) -> None:
    tokens = [Token(nasty, reward=0.1), Token(nasty, edited=True), Token(nasty)]
    said = Rewritten(nasty, 0, nasty, True, tokens, tokens)
    page = parse(rewrites([said], 1, [(nasty, nasty, SHARE)]))
    assert len(page.all("script")) == 1
    assert not page.all("img") and not page.all("iframe") and not page.all("base")
    shown = " ".join(visible(nasty).replace("\n", "↵\n").split())
    assert shown in page.shown
