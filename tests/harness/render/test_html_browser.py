"""The page in a real browser, opened from disk: it works, asks for nothing, and runs no text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.pages import HOSTILE, hostile, simple
from helpers.quiz import make

from harness.board import Board
from harness.core.text import visible
from harness.render import html
from harness.render.html.rewrites import Rewritten, Token

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def show(driver: Any, page: str, folder: Path, *, width: int = 1280, dark: bool = False) -> None:
    """Open `page` from a file, in a window of that width."""
    path = folder / "page.html"
    path.write_bytes(page.encode())
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.get(f"file://{path}")


def script(driver: Any, source: str) -> Any:
    return driver.execute_script(source)


def keys(driver: Any, *pressed: str) -> None:
    from selenium.webdriver import ActionChains

    chain = ActionChains(driver)
    for key in pressed:
        chain.send_keys(key)
    chain.perform()


def rows(driver: Any) -> list[str]:
    found: list[str] = script(
        driver, "return [...document.querySelectorAll('.row')].map((row) => row.textContent)"
    )
    return found


def detail(driver: Any) -> str:
    return str(script(driver, "return document.getElementById('detail').textContent"))


def search(driver: Any, text: str) -> None:
    """Type into the search, and wait until the page has acted on the last letter.

    The page waits 120 ms for the next letter; a timer that begins after it and takes longer
    ends after it, however slow the machine.
    """
    field = driver.find_element("id", "search")
    field.clear()
    field.send_keys(text)
    driver.execute_async_script("setTimeout(arguments[arguments.length - 1], 200)")


def complaints(driver: Any) -> list[str]:
    return [entry["message"] for entry in driver.get_log("browser")]


def requests(driver: Any) -> list[str]:
    """What the page asked for, from the network log."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]


def test_it_opens_from_a_file_without_a_complaint_or_a_request(driver: Any, tmp_path: Path) -> None:
    show(driver, html.report(hostile("a")), tmp_path)
    assert script(driver, "return document.getElementById('browser').hidden") is False
    assert complaints(driver) == []
    assert requests(driver) == [f"file://{tmp_path}/page.html"]


@pytest.mark.parametrize("nasty", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_text(driver: Any, tmp_path: Path, nasty: str) -> None:
    show(driver, html.report(hostile(nasty)), tmp_path)
    assert script(driver, "return window.pwned") is None
    assert complaints(driver) == []
    assert requests(driver) == [f"file://{tmp_path}/page.html"]
    assert visible(nasty) in detail(driver)
    bad = "script:not([src])"
    assert script(driver, f"return document.querySelectorAll('{bad}').length") == 2
    assert script(driver, "return document.querySelectorAll('img, iframe, base, link').length") == 0


def board_page(nasty: str, folder: Path) -> str:
    """A leaderboard whose names somebody chose badly."""
    board = Board(folder / "board")
    board.add_evaluation(make([{"accuracy": 1.0}] * 3), "M0", "r")
    [row] = board.rows()
    evaluation = row.entry.evaluation.model_copy(update={"engine": nasty})
    entry = row.entry.model_copy(update={"name": nasty, "evaluation": evaluation})
    return html.board([row.model_copy(update={"entry": entry, "run": nasty})])


def rewrites_page(nasty: str, folder: Path) -> str:
    """What RLMEC shows, of a model that tries to steer it."""
    tokens = [Token(nasty, reward=0.1), Token(nasty, edited=True), Token(nasty)]
    return html.rewrites([Rewritten(nasty, 0, nasty, True, tokens, tokens)], 1)


# A surrogate alone is text for a page, and none for the ledger's digests.
@pytest.mark.parametrize("nasty", [text for text in HOSTILE if text and "\ud800" not in text])
@pytest.mark.parametrize("page", [board_page, rewrites_page])
def test_hostile_text_is_text_on_the_other_pages(
    driver: Any, tmp_path: Path, page: Callable[[str, Path], str], nasty: str
) -> None:
    show(driver, page(nasty, tmp_path), tmp_path)
    assert script(driver, "return window.pwned") is None
    assert complaints(driver) == []
    assert requests(driver) == [f"file://{tmp_path}/page.html"]
    assert script(driver, "return document.querySelectorAll('img, iframe, base, link').length") == 0
    assert script(driver, "return document.querySelectorAll('script').length") == 1


def test_a_script_that_got_in_after_all_would_not_run(driver: Any, tmp_path: Path) -> None:
    page = html.report(simple()).replace(
        "<h1>", "<img src=x onerror='window.pwned=1'><script>window.pwned=1</script><h1>"
    )
    show(driver, page, tmp_path)
    assert script(driver, "return window.pwned") is None
    assert any("Content Security Policy" in said for said in complaints(driver))


def test_flipped_items_come_first_and_filters_show_the_others(driver: Any, tmp_path: Path) -> None:
    show(driver, html.report(simple(n=12)), tmp_path)
    assert [row.split("quiz ")[0] for row in rows(driver)] == [
        "▼Question 0 of the quiz\N{MINUS SIGN}1",
        "▲Question 1 of the quiz+1",
    ]
    buttons = driver.find_elements("css selector", "#changes button")
    assert [button.text for button in buttons] == [
        "▲ gained 1",
        "▼ lost 1",
        "= unchanged 10",
        "· not compared 0",
    ]
    buttons[0].click()
    assert len(rows(driver)) == 1
    buttons[2].click()
    assert len(rows(driver)) == 11
    assert "11 of 12 items" in driver.find_element("id", "count").text


def test_both_answers_with_values_and_feedback_stand_side_by_side(
    driver: Any, tmp_path: Path
) -> None:
    show(driver, html.report(simple()), tmp_path)
    told = detail(driver)
    assert "Question 0 of the quiz" in told and "answer: 0" in told and "topic: even" in told
    assert "a short answer, 0, of before" in told and "a short answer, 0, of after" in told
    assert "tone: poorCalm." in told and "tone: partlyCalm." in told
    tops = script(
        driver,
        "return [...document.querySelectorAll('.side')].map((s) => s.getBoundingClientRect().top)",
    )
    assert tops[0] == tops[1]


def test_the_words_that_two_answers_do_not_share_are_marked(driver: Any, tmp_path: Path) -> None:
    def marked() -> list[str]:
        found: list[str] = script(
            driver, "return [...document.querySelectorAll('mark')].map((m) => m.textContent.trim())"
        )
        return found

    show(driver, html.report(simple()), tmp_path)
    assert marked() == ["before", "after"]
    report = simple()
    (first, *others) = report.questions
    unlike = [dataclasses.replace(a, response=words) for a, words in
              zip(first.answers, ("one two three", "four five six"), strict=True)]  # fmt: skip
    questions = [dataclasses.replace(first, answers=unlike), *others]
    show(driver, html.report(dataclasses.replace(report, questions=questions)), tmp_path)
    assert marked() == []
    assert "one two three" in detail(driver)


def test_the_keyboard_alone_is_enough(driver: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    show(driver, html.report(simple(n=40)), tmp_path)
    keys(driver, "j")
    assert "Question 1 of" in detail(driver)
    keys(driver, "k")
    assert "Question 0 of" in detail(driver)
    keys(driver, "/")
    assert script(driver, "return document.activeElement.id") == "search"
    search(driver, "question 1 of")
    assert len(rows(driver)) == 1 and "Question 1 of" in rows(driver)[0]
    keys(driver, "j")  # in a field it is a letter
    keys(driver, Keys.ESCAPE)
    assert script(driver, "return document.activeElement.id") == "list"
    assert script(driver, "return document.getElementById('search').value") == ""
    for button in driver.find_elements("css selector", "#changes button")[2:3]:
        button.send_keys(Keys.SPACE)
    driver.find_element("id", "list").send_keys(Keys.END)
    assert "Question 39 of" in detail(driver)
    selected = script(
        driver,
        "return document.getElementById("
        "document.getElementById('list').getAttribute('aria-activedescendant')).textContent",
    )
    assert "Question 39 of" in selected


def test_escape_right_after_a_letter_leaves_nothing_to_come(driver: Any, tmp_path: Path) -> None:
    """The search waits for the next letter; once left, it redraws the list no more."""
    show(driver, html.report(simple(n=40)), tmp_path)
    found = driver.execute_async_script(
        """
        const done = arguments[arguments.length - 1];
        const [list, field] = ["list", "search"].map((id) => document.getElementById(id));
        const press = (element, key) =>
          element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
        document.querySelectorAll("#changes button")[2].click();
        field.focus();
        field.value = "nothing has these words";
        field.dispatchEvent(new Event("input", { bubbles: true }));
        press(field, "Escape");
        press(list, "End");
        setTimeout(() => done([field.value, document.getElementById("detail").textContent]), 400);
        """
    )
    assert found[0] == ""
    assert "Question 39 of" in found[1]


def test_search_finds_answers_references_and_tags(driver: Any, tmp_path: Path) -> None:
    show(driver, html.report(simple(n=12)), tmp_path)
    for button in driver.find_elements("css selector", "#changes button")[2:3]:
        button.click()
    search(driver, "Answer, 7, of AFTER")
    assert ["Question 7 " in row for row in rows(driver)] == [True]
    search(driver, "topic: odd")
    assert len(rows(driver)) == 6
    search(driver, "no such words")
    assert rows(driver) == []
    assert driver.find_element("id", "count").text == "No item matches."


def test_dark_follows_the_system_and_the_button(driver: Any, tmp_path: Path) -> None:
    def ground() -> str:
        return str(script(driver, "return getComputedStyle(document.body).backgroundColor"))

    page = html.report(simple())
    show(driver, page, tmp_path)
    light = ground()
    show(driver, page, tmp_path, dark=True)
    dark = ground()
    assert dark != light
    driver.find_element("id", "theme").click()
    assert ground() == light
    driver.find_element("id", "theme").click()
    assert ground() == dark


@pytest.mark.parametrize("width", [390, 320])
@pytest.mark.parametrize("text", ["a short answer", "x" * 3000, HOSTILE[15]])
def test_on_a_phone_nothing_overflows(driver: Any, tmp_path: Path, width: int, text: str) -> None:
    for page in (html.report(hostile(text)), html.report(simple(n=30, text=text))):
        show(driver, page, tmp_path, width=width)
        assert script(driver, "return document.documentElement.scrollWidth") <= width


def test_ten_thousand_items_keep_the_document_small(driver: Any, tmp_path: Path) -> None:
    show(driver, html.report(simple(n=10_000, text="some words of an answer " * 25)), tmp_path)
    assert complaints(driver) == []
    for button in driver.find_elements("css selector", "#changes button")[2:3]:
        button.click()
    count = "return document.querySelectorAll('*').length"
    assert "10,000 of 10,000" in driver.find_element("id", "count").text
    assert script(driver, count) < 1_000
    script(driver, "document.getElementById('list').scrollTop = 300000")
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 5).until(lambda d: any("Question 5357 " in row for row in rows(d)))
    assert script(driver, count) < 1_000
    search(driver, "question 9876 of")
    assert ["Question 9876 " in row for row in rows(driver)] == [True]


def test_every_part_that_scrolls_can_be_reached_by_keyboard(driver: Any, tmp_path: Path) -> None:
    show(driver, html.report(hostile("a")), tmp_path, width=390)
    stuck = script(
        driver,
        """return [...document.querySelectorAll('.scroll, .list')].filter(
             (part) => part.scrollWidth > part.clientWidth && part.tabIndex < 0).length""",
    )
    assert stuck == 0
