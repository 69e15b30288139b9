"""What measures: ratios with intervals, rows that are kept, scripts that fail beside others."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ratio
from scipy.stats import t as student

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


def test_the_gates_errors_are_measured_kept_and_within_wide_bounds(tmp_path: Path) -> None:
    """Few gates: the upper end of a promised rate may not lie far above it."""
    out = tmp_path / "rows.json"
    command = [sys.executable, "bench/gate_error.py", "--gates", "60", "--out", out, "--only"]

    def measured(parts: str) -> dict[str, Any]:
        done = subprocess.run(
            [*command, parts], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert "seed 0" in done.stdout
        return json.loads(out.read_text())["parts"]

    few = measured("few")
    both = measured("few,panel")
    assert both["few"] == few["few"], "what was measured is not measured again"
    promised = [row for row in both["panel"]["rows"] if row["wanted"] == "<= .06"]
    assert len({row["scenario"].split(", n ")[0] for row in promised}) >= 10
    assert {row["test"] for row in promised} == {"the gate's test"}
    assert all(row["low"] <= 0.06 for row in promised)
    assert np.mean([row["rate"] for row in promised]) < 0.05
    before = [row["rate"] for row in both["panel"]["rows"] if row["test"].startswith("Student")]
    assert max(before) > 0.3
