"""What was learned from, looked at: in the terminal, as a page, as JSON."""

from __future__ import annotations

import json

import pytest

from harness.core.errors import UserError
from harness.core.files import write_json, write_jsonl
from harness.core.schema import Score
from rlrf.cli import run
from rlrf.objectives.rlmec import RewriteExample
from rlrf.rlmec import show
from rlrf.rlmec.rewriter import agree

WRONG = RewriteExample(
    task="sums", item="a", index=3, prompt="<|user|>What is 3+4?", response="It is 8.",
    cut=False, right=False, tokens=["It", " is", " 8", ".", "<|end|>"],
    rewards=[0.0, 0.0, -0.1, -0.02, 0.0], rewrite="It is 7 now.",
    rewrite_tokens=["It", " is", " 7", " now", ".", "<|end|>"],
    edited=[False, False, True, True, False, False],
)  # fmt: skip
RIGHT = RewriteExample(
    task="birds", item="b", index=4, prompt="Name one.", response="An owl\n", cut=True, right=True,
    tokens=["An", " owl", "\n"], rewards=[0.1, 0.5, 0.3], rewrite="An owl",
    rewrite_tokens=["An", " owl", "<|end|>"], edited=[False, False, False],
)  # fmt: skip
NASTY = "</p><script>window.pwned = 1</script>\x1b[31m\u202e"


@pytest.fixture
def iteration(tmp_path):
    place = tmp_path / "run" / "iter_1"
    write_jsonl(place / show.REWRITES, [WRONG, RIGHT])
    scores = [Score(task="sums", item=str(i), index=i, values={"repaired": 1.0}) for i in range(4)]
    write_json(place / show.MEASURED, agree(scores))
    return place


def test_the_terminal_marks_what_earns_what_loses_and_what_was_edited(iteration, capsys):
    assert run(["rlmec", "show", str(iteration)]) == 0
    said = capsys.readouterr().out
    assert "sums 3, wrong" in said and "birds 4, right" in said
    assert "It is[- 8.-]<|end|>" in said
    assert "It is{+ 7 now+}.<|end|>" in said
    assert "[+An owl" in said
    assert "2 of 2 rewrites" in said
    assert "sums repaired 1.000 [0.510, 1.000] (n 4)" in said


def test_some_may_be_chosen(iteration, capsys):
    for options, count in ((["--wrong"], 1), (["--right"], 1), (["--task", "sums"], 1),
                           (["--limit", "1"], 1), (["--task", "birds", "--wrong"], 0)):  # fmt: skip
        assert run(["rlmec", "show", str(iteration), *options]) == 0
        assert f"{count} of 2 rewrites" in capsys.readouterr().out
    assert run(["rlmec", "show", str(iteration), "--task", "fish"]) == 3
    assert "only of birds, sums" in capsys.readouterr().err


def test_programs_get_json(iteration, capsys):
    assert run(["rlmec", "show", str(iteration), "--json", "--wrong"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["count"] == 2
    assert found["rewrites"][0]["rewards"] == WRONG.rewards
    assert found["agreement"]["by_task"]["sums"]["repaired"]["n"] == 4


def test_a_page_has_the_same(iteration, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert run(["rlmec", "show", str(iteration), "--html", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    page = out.read_text()
    assert '<span class="loses l4" title="\N{MINUS SIGN}0.100"> 8</span>' in page
    assert '<span class="earns l1" title="+0.100">An</span>' in page
    assert "It is<ins> 7 now</ins>.&lt;|end|&gt;" in page
    assert "2 of 2 responses" in page and "repaired" in page


def test_text_of_a_model_stays_text(iteration, tmp_path, capsys):
    tokens = [NASTY, "[bold]x[/bold]"]
    nasty = WRONG.model_copy(
        update={"prompt": NASTY, "tokens": tokens, "rewards": [-0.1, 0.0],
                "rewrite_tokens": tokens, "edited": [True, False]}
    )  # fmt: skip
    write_jsonl(iteration / show.REWRITES, [nasty])
    assert run(["rlmec", "show", str(iteration)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\u202e" not in said
    assert "[bold]x[/bold]" in said
    page = show.page([nasty], 1, None)
    assert "<script>window" not in page
    assert page.count("&lt;script&gt;window.pwned") == 3


def test_what_is_no_iteration_is_refused(iteration, tmp_path, capsys):
    with pytest.raises(UserError, match=r"RUN/iter_1"):
        show.load(tmp_path / "nowhere")
    assert run(["rlmec", "show", str(tmp_path)]) == 3
    assert "has no rewrites" in capsys.readouterr().err
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"chosen": "a"}\n')
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 1"):
        show.load(pairs)
    assert show.load(iteration / show.REWRITES)[0] == [WRONG, RIGHT]
