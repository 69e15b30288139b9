"""The page: its structure, that it needs nothing else, and that no text in it can do anything."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from importlib import resources
from pathlib import Path

import pytest
from helpers.pages import HOSTILE, data, hostile, parse, result, simple
from helpers.quiz import make
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.board import Board
from harness.core.schema import Alarm, JudgeRef, Metric, MetricResult, Policy, Rule, digest
from harness.core.text import visible
from harness.gate import decide, promote
from harness.render import html, numbers
from harness.render.html import bars
from harness.render.html.figures import Curve, Point, Step, curve
from harness.render.html.page import embed
from harness.render.html.report import MAX_TEXT_CHARS

POLICY = Policy(rules=[Rule(task="quiz", metric="accuracy", margin=0.1)])


def require_sound(page: str) -> None:
    """What must hold of every page, whatever it is about."""
    parsed = parse(page)
    policies = [m["content"] for m in parsed.all("meta")
                if m.get("http-equiv") == "Content-Security-Policy"]  # fmt: skip
    assert len(policies) == 1 and "default-src 'none'" in str(policies[0])
    (style,) = parsed.text["style"]
    script = parsed.text["script"][-1]
    for source in (style, script):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in str(policies[0])
    kinds = [s.get("type") for s in parsed.all("script")]
    assert kinds in ([None], ["application/json", None])
    for tag, attributes in parsed.elements:
        assert tag not in ("img", "iframe", "object", "embed", "link", "base")
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("style", "srcdoc", "formaction")
            if name in ("href", "src", "action"):
                assert str(value).startswith("#"), f"{tag} {name}={value} leads away"
    ids = [str(a["id"]) for _, a in parsed.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in parsed.elements:
        named = f"{attributes.get('aria-labelledby') or ''} {attributes.get('aria-controls') or ''}"
        assert set(named.split()) <= set(ids)
        if (target := attributes.get("href")) and target.startswith("#"):
            assert target[1:] in ids
    assert all(head.get("scope") for head in parsed.all("th"))
    assert len(parsed.all("main")) == len(parsed.all("h1")) == 1
    assert all(svg.get("aria-hidden") or svg.get("role") == "img" for svg in parsed.all("svg"))


def test_a_page_needs_nothing_but_itself_and_is_well_formed() -> None:
    page = html.report(simple())
    require_sound(page)
    parsed = parse(page)
    assert parsed.all("html") == [{"lang": "en"}]
    assert "A title" in parsed.shown and "a finding" in parsed.shown
    assert "http" not in parsed.shown


def test_every_page_is_made_from_the_template_that_has_the_policy() -> None:
    templates = list((resources.files(html) / "templates").iterdir())
    pages = {one.name: one.read_text() for one in templates if one.name.endswith(".html.jinja")}
    assert "Content-Security-Policy" in pages.pop("base.html.jinja")
    assert len(pages) == 3
    for name, text in pages.items():
        assert text.startswith('{% extends "base.html.jinja" %}'), name
    # And no other code of ours writes HTML.
    root = Path(__file__).parents[3]
    for package in ("harness", "rlrf", "tasks"):
        for path in (root / package).rglob("*.py"):
            assert not re.search(r"<(html|body|!doctype)\b", path.read_text(), re.IGNORECASE), path


def test_equal_reports_give_equal_bytes() -> None:
    assert html.report(hostile("a")) == html.report(hostile("a"))
    assert not re.search(r"20\d\d-\d\d|matplotlib", html.report(hostile("a")))


@pytest.mark.parametrize("nasty", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_shown_and_does_nothing(nasty: str) -> None:
    page = html.report(hostile(nasty))
    require_sound(page)
    page.encode("utf-8")
    assert visible(page) == page
    read = data(page)
    assert read["items"][0]["prompt"] == visible(nasty)
    assert read["items"][0]["answers"][1]["response"] == visible(nasty)
    assert " ".join(visible(nasty).split()) in parse(page).shown


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_no_text_ends_the_data_or_is_lost_in_it(text: str) -> None:
    block = embed({"a": [text, {text: text}]})
    assert not re.search("[<>&\u2028\u2029]", block)
    import json

    shown = visible(text)
    assert json.loads(block) == {"a": [shown, {shown: shown}]}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "a⟨U+202E⟩b"),
        ("\x00", "⟨U+0000⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),
        ("a\r\nb\tc", "a\nb\tc"),
        ("a\rb", "a⟨U+000D⟩b"),
        ("👩‍💻 می‌خواهم", "👩‍💻 می‌خواهم"),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_response_of_a_megabyte_is_cut_with_a_note() -> None:
    page = html.report(simple(text="x" * 1_000_000))
    answer = data(page)["items"][0]["answers"][0]
    assert len(answer["response"]) == MAX_TEXT_CHARS
    assert answer["notes"][0] == f"the first {MAX_TEXT_CHARS:,} of 1,000,014 characters"
    assert len(page) < 500_000


def test_texts_are_cut_further_where_all_of_them_would_not_open() -> None:
    read = data(html.report(simple(n=2000, text="x" * 19_000)))
    shown = [len(answer["response"]) for item in read["items"] for answer in item["answers"]]
    assert len(read["items"]) == 2000
    assert sum(shown) < 32_000_000 and min(shown) > 2_000
    assert read["items"][7]["answers"][0]["notes"]


def test_every_number_has_its_interval_and_n() -> None:
    shown = parse(html.report(simple(n=50))).shown
    assert "0.960 [0.865, 0.989]" in shown
    assert re.search(r"mean \[95 %\] interval n unscored", shown)


def test_a_decision_is_shown_with_its_bar_its_reason_and_its_alarms() -> None:
    before = make([{"accuracy": float(i < 90)} for i in range(100)])
    after = make([{"accuracy": float(i < 30)} for i in range(100)])
    decision = decide(POLICY, {"quiz": before}, {"quiz": after})
    alarm = Alarm(kind="length", task="quiz", message="answers are twice as long", candidate=2)
    decision = decision.model_copy(update={"alarms": [alarm]})
    gate = html_gate(decision)
    page = html.report(dataclasses.replace(simple(), gates=[gate]))
    require_sound(page)
    shown = parse(page).shown
    assert "\N{MINUS SIGN}0.600" in shown and "answers are twice as long" in shown
    assert decision.checks[0].reason in shown
    assert "< .0001" not in shown and "rolled back" in shown


def html_gate(decision):
    from harness.render.html.report import Gate

    return Gate("Iteration 1", "rolled back", ["because"], [("M0", decision)])


def test_a_bar_shows_where_the_interval_lies_against_the_margin() -> None:
    passing = decide(
        POLICY,
        {"quiz": make([{"accuracy": float(i % 2)} for i in range(200)])},
        {"quiz": make([{"accuracy": float(i % 2 or i < 8)} for i in range(200)])},
    ).checks
    (bar,) = bars.of_checks(passing)
    assert bar is not None
    assert bar.ticks[0] < bar.low < bar.middle < bar.high
    assert bar.ticks[1] < bar.middle
    far = passing[0].model_copy(update={"delta": 0.9, "low": 0.85, "high": 0.95, "margin": 0.01})
    (bar,) = bars.of_checks([far])
    assert bar is not None and bar.beyond_high and not bar.beyond_low
    assert bars.of_checks([passing[0].model_copy(update={"n": 0})]) == [None]


def test_means_are_drawn_on_one_scale() -> None:
    low, none, high = bars.of_results([result(0.2), MetricResult(mean=None, n=0), result(0.8)])
    assert low is not None and high is not None and none is None
    assert low.low == bars.EDGE and high.high == bars.WIDTH - bars.EDGE
    (single,) = bars.of_results([MetricResult(mean=0.5, n=1)])
    assert single is not None and single.low == single.high == bars.WIDTH / 2


@pytest.mark.parametrize(
    ("value", "metric", "shown"),
    [
        (0.5, Metric(name="a", kind="binary"), "0.500"),
        (4.7, Metric(name="a", kind="continuous", low=1, high=5), "4.70"),
        (1234.56, Metric(name="a", kind="continuous", high=10_000), "1,234.6"),
        (-0.25, None, "\N{MINUS SIGN}0.25"),
        (None, None, numbers.NOTHING),
    ],
)
def test_numbers_have_the_digits_that_their_metric_deserves(
    value: float | None, metric: Metric | None, shown: str
) -> None:
    assert numbers.number(value, metric) == shown


def test_a_plot_takes_the_colours_of_the_page_and_says_its_numbers() -> None:
    drawn = Curve(
        "quiz accuracy",
        None,
        [
            Point("M0", result(0.3), "start"),
            Point("M1", result(0.6), "promoted"),
            Point("M2", result(0.4), "rolled back"),
        ],
        [Step("M0", "M1", 0.31, 0.62), Step("M1", "M2", 0.6, 0.5)],
    )
    svg = curve(drawn, "one")
    parsed = parse(svg)
    colours = {str(a[k]) for _, a in parsed.elements for k in ("fill", "stroke") if k in a}
    assert colours <= {"none", *(f"var(--{name})" for name in
        ("ink", "soft", "line", "panel", "series-1"))}  # fmt: skip
    assert not any("style" in a for _, a in parsed.elements)
    assert "M2 (rolled back) 0.4 [0.35, 0.45] n=100" in parsed.text["desc"][0]
    assert {"M0", "M1", "M2"} <= set(parsed.text["text"])
    assert svg == curve(drawn, "one")
    ids = {a["id"] for _, a in parsed.elements if "id" in a}
    others = {a["id"] for _, a in parse(curve(drawn, "two")).elements if "id" in a}
    assert not ids & others
    used = re.findall(r'(?:url\(|href=")#([^)"]+)', svg)
    assert used and set(used) <= ids


# The board


def board_of(tmp_path, **fields) -> Board:
    board = Board(tmp_path)
    for name, right in (("good", 55), ("alike", 53), ("poor", 10)):
        rows = [{"accuracy": float(i < right)} for i in range(60)]
        board.add_evaluation(make(rows, model=name, **fields), name, "r")
    return board


def cells(page: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [
        [" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in
         re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)]
        for row in rows
    ]  # fmt: skip


def test_models_that_cannot_be_told_apart_share_a_rank(tmp_path) -> None:
    page = html.board(board_of(tmp_path).rows())
    require_sound(page)
    ranked = [(row[0], row[1]) for row in cells(page)[1:]]
    assert ranked == [("=1", "good"), ("=1", "alike"), ("3", "poor")]


def test_what_was_withdrawn_is_not_ranked_and_stands_below_with_its_reason(tmp_path) -> None:
    board = board_of(tmp_path)
    entry = digest(board.rows()[0].entry)
    board.invalidate(entry, "its <weights> were mixed up", "r")
    page = html.board(board.rows())
    require_sound(page)
    assert [row[:2] for row in cells(page)[1:]] == [["1", "alike"], ["2", "poor"]]
    assert f"good on quiz (gate) {entry[:12]} : its <weights> were mixed up" in parse(page).shown


def test_evaluations_that_cannot_be_compared_are_ranked_apart(tmp_path) -> None:
    board = board_of(tmp_path)
    other = JudgeRef(id="another judge", prompt_digest="p")
    rows = [{"accuracy": 1.0}] * 60
    board.add_evaluation(make(rows, model="other", judge=other), "other", "r")
    page = html.board(board.rows())
    require_sound(page)
    assert "another judge" in parse(page).shown
    assert page.count("<h2") == 2
    assert [row[:2] for row in cells(page) if "other" in row] == [["1", "other"]]


def test_the_verdicts_and_the_promotion_stand_beside_a_model(tmp_path) -> None:
    board = Board(tmp_path)
    before = make([{"accuracy": float(i < 20)} for i in range(60)], model="M0")
    after = make([{"accuracy": float(i < 50)} for i in range(60)], model="M1")
    board.add_evaluation(before, "M0", "r")
    board.add_evaluation(after, "M1", "r")
    decision = decide(POLICY, {"quiz": before}, {"quiz": after})
    board.add_decision(decision, "r", "incumbent")
    board.add_promotion(promote(decision, decision), "M1", "M0", "r")
    rows = cells(html.board(board.rows()))
    assert rows[1][1] == "M1" and "pass incumbent" in rows[1][-2] and "promoted" in rows[1][-1]
    assert rows[2][-2:] == [numbers.NOTHING] * 2


@pytest.mark.parametrize("nasty", [n for n in HOSTILE if n and "\ud800" not in n])
def test_a_board_shows_hostile_names_and_does_nothing(tmp_path, nasty: str) -> None:
    rows = board_of(tmp_path).rows()
    changed = {"estimator": nasty, "engine": nasty}
    evaluation = rows[0].entry.evaluation.model_copy(update=changed)
    entry = rows[0].entry.model_copy(update={"name": nasty, "evaluation": evaluation})
    page = html.board([rows[0].model_copy(update={"entry": entry, "run": nasty}), *rows[1:]])
    require_sound(page)
    assert " ".join(visible(nasty).split()) in parse(page).shown


def test_an_empty_board_says_so() -> None:
    page = html.board([])
    require_sound(page)
    assert "Nothing has been evaluated yet." in page


# Contrast


def schemes() -> dict[str, dict[str, str]]:
    style = (resources.files("harness.render.html") / "templates" / "page.css").read_text()
    light, auto, dark = re.findall(r"color-scheme: \w+;(.*?)\}", style, re.DOTALL)
    found = [dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in (light, auto, dark)]
    assert found[1] == found[2], "the dark scheme is the same, chosen or by the system"
    return {"light": found[0], "dark": found[2]}


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_marks_have_the_contrast_that_wcag_asks_for(scheme: str) -> None:
    colours = schemes()[scheme]
    for text in ("ink", "soft", "accent", "gain", "loss", "warn"):
        for ground in ("paper", "panel", "pick"):
            assert contrast(colours[text], colours[ground]) >= 4.5, f"{text} on {ground}"
    for kind in ("gain", "loss", "warn"):
        assert contrast(colours[kind], colours[f"{kind}-wash"]) >= 4.5, kind
    for k in range(6):
        assert contrast(colours[f"series-{k}"], colours["panel"]) >= 3, f"series {k}"
