"""Text of unknown origin: each kind of output shows it, and none obeys it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from pydantic import ValidationError

from harness.core import text
from harness.core.log import annotate, say, show
from harness.core.schema import Evaluation, JudgeRef, Metric, ModelRef, Rule

HIDDEN = {
    "escape": "\x1b[2J",
    "nul": "\x00",
    "backspace": "\x08",
    "carriage return": "\r",
    "c1 control": "\x9b31m",
    "right-to-left override": "\u202e",
    "isolate": "\u2066",
    "zero-width space": "\u200b",
    "line separator": "\u2028",
    "byte-order mark": "\ufeff",
    "tag letter": "\U000e0041",
    "half of a pair": "\ud800",
}
COMMANDS = (
    "::error::pwned",
    "::add-mask::a",
    "  ::set-output name=a::b",
    "\t::stop-commands::x",
    "##[error]pwned",
    "words and ##[group]more",
    "##vso[task.setvariable variable=a]b",
    "##teamcity[buildStatus text='x']",
)


def obeyed(line: str) -> bool:
    """Whether a CI runner would take `line` for a command, by the runners' own rules."""
    return line.lstrip().startswith("::") or bool(re.search(r"##(\[|vso\[|teamcity\[)", line))


@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
def test_hidden_characters_are_spelled_out(hidden: str) -> None:
    shown = text.terminal(f"before{hidden}after")
    assert f"U+{ord(hidden[0]):04X}" in shown
    assert all(c.isprintable() for c in shown)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("before", ["", "model ", "model\n", "model\r\n", "model\n\n  ", "\x1b\n"])
def test_no_line_is_a_command_of_a_ci_runner(command: str, before: str) -> None:
    shown = text.terminal(before + command)
    assert not any(obeyed(line) for line in shown.splitlines())
    words = re.sub(r"[\W_]+", "", command)
    assert words in re.sub(r"[\W_]+", "", shown), "it is still readable"


@given(st.text(alphabet=st.sampled_from(":# \t\n\r\x1b[]avso-e"), max_size=30))
def test_no_text_makes_a_command(found: str) -> None:
    assert not any(obeyed(line) for line in text.terminal(found).splitlines())


@pytest.mark.parametrize("command", ["##[error]a", "x ##[add-mask]y", "##vso[task.x]z"])
def test_json_and_csv_hold_no_command_either(command: str) -> None:
    written = text.json_text(json.dumps({"name": command}))
    assert json.loads(written) == {"name": command}
    assert not obeyed(written)
    assert not obeyed(text.csv_cell(command))


def test_ordinary_output_is_left_as_it_is() -> None:
    page = "| model | acc::b |\n|---|---|\n| Qwen/Qwen3 | ünïcode 漢字 👩\u200d💻 |\n## Gate\n\ta\n"
    assert text.terminal(page) == page


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        ("see https://evil.example/a", "see https[:]//evil.example/a"),
        ("www.evil.example", "www[.]evil.example"),
        ("thanks @octocat", "thanks [@]octocat"),
        ("me@evil.example", "me[@]evil.example"),
        ("a @ b", "a @ b"),
        ("ftp://x", "ftp[:]//x"),
    ],
)
def test_markdown_has_no_live_address_and_no_mention(found: str, shown: str) -> None:
    escaped = text.markdown(found)
    page = MarkdownIt("gfm-like", {"linkify": False}).render(escaped)
    assert page.strip() == f"<p>{shown}</p>"
    assert "://" not in escaped
    assert not re.search(r"@\w", escaped)


@pytest.mark.parametrize("name", ["pass@4", "maj@16 of gsm8k", "It says pass@1.", "pass@2(f1)"])
def test_markdown_leaves_the_name_of_a_metric_alone(name: str) -> None:
    assert text.markdown(name) == name


@pytest.mark.parametrize("address", ["me@1.example", "a@1-b.example", "see @4", "me@4a.example"])
def test_markdown_takes_no_address_for_the_name_of_a_metric(address: str) -> None:
    assert "@" in address and not re.search(r"@\w", text.markdown(address))


@given(st.text(max_size=60))
def test_xml_takes_any_text(found: str) -> None:
    element = ET.fromstring(f'<a b="{text.xml(found)}">{text.xml(found)}</a>')
    assert element.text is None or "\x00" not in element.text


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\uff1d", "\uff20", " =", "\t@", "\n+"])
def test_no_cell_is_a_formula(start: str) -> None:
    assert text.csv_cell(f"{start}SUM(A1)").startswith("'")


def test_what_is_printed_goes_through_one_door(capsys: pytest.CaptureFixture[str]) -> None:
    say("model\n::error::a\x1b[0m")
    show("model\n::error::a\x1b[0m")
    printed = capsys.readouterr()
    for stream in printed:
        assert stream == "model\n| ::error::a⟨U+001B⟩[0m\n"


def test_annotations_reach_the_runner_in_a_json_log_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLRF_LOG", "json")
    annotate(["::error title=Gate::fail"])
    assert capsys.readouterr().err == "::error title=Gate::fail\n"


@pytest.mark.parametrize("hidden", [*HIDDEN.values(), "\n", "\t"])
def test_a_name_with_hidden_characters_is_refused(hidden: str) -> None:
    name = f"a{hidden}b"
    for made in (
        lambda: ModelRef(id=name),
        lambda: JudgeRef(id=name),
        lambda: Metric(name=name, kind="binary"),
        lambda: Rule(task=name, metric="m", margin=0.1),
        lambda: Rule(task="t", metric=name, margin=0.1),
    ):
        with pytest.raises(ValidationError, match=r"name is one line of visible text|surrogate"):
            made()


@pytest.mark.parametrize("digest", ["@SUM(1)", '=HYPERLINK("x")', "a b", "", "x" * 200, "a\n"])
def test_a_digest_is_a_plain_word(digest: str) -> None:
    with pytest.raises(ValidationError, match="digest"):
        ModelRef(id="m", digest=digest)
    properties = Evaluation.model_json_schema()["properties"]
    for name in ("dataset_digest", "prompt_digest", "samples_digest", "scores_digest"):
        assert not re.search(properties[name]["pattern"], digest.removesuffix("\n") + " ")
