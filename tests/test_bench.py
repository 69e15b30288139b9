"""What measures: ratios with intervals, rows that are kept, scripts that fail beside others."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import error_pages
import error_rows
import numpy as np
import pytest
import ratio
from scipy.stats import t as student

from harness.stats.power import tango_items_needed

ROOT = Path(__file__).parents[1]


def test_a_ratio_is_the_geometric_mean_with_students_interval() -> None:
    found = ratio.interval([(2.0, 1.0), (8.0, 1.0)])
    half = student.ppf(0.975, 1) * math.log(2)  # the logarithms' standard error
    assert found["ratio"] == pytest.approx(4.0)
    assert found["low"] == pytest.approx(4 * math.exp(-half))
    assert found["high"] == pytest.approx(4 * math.exp(half))
    assert (found["theirs_seconds"], found["ours_seconds"]) == (5.0, 1.0)


def test_one_round_has_no_interval() -> None:
    found = ratio.interval([(3.0, 1.0)])
    assert (found["low"], found["high"]) == (None, None)
    assert ratio.shown(found) == "3.00"


def test_sides_that_differ_have_no_ratio() -> None:
    with pytest.raises(SystemExit, match="outputs differ"):
        ratio.race("a claim", lambda: 1, lambda: 2, rounds=1, same=int.__eq__)


def test_rows_are_kept_as_they_are_made(tmp_path: Path) -> None:
    def rows() -> Any:
        yield {"claim": "first"}
        sys.exit("the second fails")

    with pytest.raises(SystemExit):
        ratio.publish(rows(), tmp_path / "rows.json")
    assert json.loads((tmp_path / "rows.json").read_text()) == [{"claim": "first"}]


@pytest.mark.slow
def test_a_claim_that_lacks_its_peer_leaves_the_others_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table -->\nold\n<!-- /table -->\nafter\n")
    done = subprocess.run(
        [sys.executable, "bench", "--only", "report,gate", "--out", tmp_path, "--page", page],
        cwd=ROOT,
        env=os.environ | {"PATH": ""},  # no browser
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "chromium" in done.stderr
    assert "Not measured, or not all of it, see above: report" in done.stderr
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "the gate on 10,000 items" in text and "the page on" not in text
    assert len(json.loads((tmp_path / "gate.json").read_text())["rows"]) == 1


@pytest.mark.slow
def test_zeros_around_the_shipped_policy_change_no_answer(tmp_path: Path) -> None:
    from policies import as_loaded, asked, grown, texts

    from harness.engines import Sampling
    from harness.engines.hf import HFEngine
    from rlrf.quickstart import seed_policy

    folders = seed_policy(), grown(tmp_path)
    size, larger = (as_loaded(one).num_parameters() for one in folders)
    assert larger > 60e6 > 40 * size
    small, large = (HFEngine(folder, device="cpu") for folder in folders)
    questions = asked(small.tokenizer, texts(3))
    assert small.generate(questions, Sampling()) == large.generate(questions, Sampling())


def gate_errors(out: Path, *options: str) -> dict[str, Any]:
    """Measure the gate's errors on few gates, and return the cells that `out` then holds."""
    command = [sys.executable, "bench/gate_error.py", "--gates", "60", "--out", out, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "seed 0" in done.stdout
    return json.loads(out.read_text())["cells"]


@pytest.mark.slow
def test_cells_that_were_measured_are_not_measured_again(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    first = gate_errors(out, "--only", "few")
    second = gate_errors(out, "--only", "few,power")
    assert {key: second[key] for key in first} == first
    assert {key.split(":")[0] for key in second} == {"few", "power"}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_promise_of_the_gate_is_measured_and_kept_within_wide_bounds(
    tmp_path: Path,
) -> None:
    """Few gates: a promise is broken if such rates happen by chance once in a million."""
    cells = gate_errors(tmp_path / "rows.json")
    rows = [error_rows.Row(**row) for cell in cells.values() for row in cell["rows"]]
    promised = [row for row in rows if row.promised]
    published, _ = error_rows.from_csv((ROOT / "docs" / error_pages.CSV).read_text())
    assert {row.part for row in promised} == {row.part for row in published if row.promised}
    assert [row for row in promised if error_rows.exceeds(row, 1e-6)] == []
    own = [row for row in promised if row.part == "panel" and row.event == "pass"]
    assert len({row.case for row in own}) >= 10
    assert np.mean([row.value for row in own]) < 0.05
    t = [row.value for row in rows if row.test == "t (not used)" and row.event == "pass"]
    assert max(t) > 0.3, "the panel has distributions on which t fails"


def test_a_broken_promise_is_noticed() -> None:
    setting = error_rows.Setting("part", "test", "case", 100)
    assert error_rows.exceeds(setting.rate("pass", np.arange(60) < 20, "<= .06"), 1e-6)
    assert error_rows.exceeds(setting.rate("covers", np.arange(60) < 30, ">= .93"), 1e-6)
    assert not error_rows.exceeds(setting.rate("pass", np.arange(60) < 4, "<= .06"), 1e-6)
    assert not error_rows.exceeds(setting.rate("pass", np.arange(60) < 60), 1e-6)


def test_every_figure_on_the_gates_statistics_has_a_measured_row() -> None:
    rows, _ = error_rows.from_csv((ROOT / "docs" / error_pages.CSV).read_text())
    for name in (error_pages.GUIDE, error_pages.RESULTS):
        text = (ROOT / "docs" / name).read_text()
        assert error_pages.BLOCK.search(text)
        assert error_pages.fill(text, rows) == text, (
            f"run: python bench/error_pages.py docs, {name}"
        )
    assert [*error_pages.unsupported(ROOT / "docs", rows)] == []


def test_the_items_in_the_guide_are_the_exact_ones() -> None:
    guide = (ROOT / "docs" / error_pages.GATE).read_text()
    for margin in (0.015, 0.03, 0.06):
        (line,) = (x for x in guide.splitlines() if x.startswith(f"| {margin:>6g} |"))
        shown = [int(cell.replace(",", "")) for cell in line.split("|")[2:6]]
        powers = (0.5, 0.8, 0.9, 0.95)
        assert shown == [tango_items_needed(0.1, margin, power=power) for power in powers]


def test_a_figure_without_a_row_is_named(tmp_path: Path) -> None:
    rows, _ = error_rows.from_csv((ROOT / "docs" / error_pages.CSV).read_text())
    docs = tmp_path / "docs"
    for name in (error_pages.GUIDE, error_pages.RESULTS, error_pages.GATE, error_pages.README):
        (docs / name).parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / "docs" / name).read_text()
        if name == error_pages.GATE:
            text = (
                text.replace("six times as often", "twice as often")
                + "\nIt errs 3.7 % of the time.\n"
            )
        (docs / name).write_text(text)
    problems = [*error_pages.unsupported(docs, rows)]
    assert problems[1:] == ["gate.md: 3.7 % has no row"]
    assert "six times as often" in problems[0]


def test_rows_survive_the_csv() -> None:
    setting = error_rows.Setting("part", "test", "case, with a comma", 1319)
    rows = [setting.rate("pass", [True, False], "<= .06"), setting.average("items used", [3, 4])]
    read, seed = error_rows.from_csv(error_rows.to_csv(rows, 7))
    assert seed == 7
    for before, after in zip(rows, read, strict=True):
        assert before.case == after.case and before.promised == after.promised
        assert (after.value, after.low, after.high) == pytest.approx(
            (before.value, before.low, before.high), rel=1e-3
        )
