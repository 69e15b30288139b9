"""The page of a run: what became of each candidate, and what the sealed split confirms."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import toy
from helpers.build import build_evaluation

from harness.core.errors import UserError
from harness.core.files import write_json
from harness.core.schema import ModelRef, Policy, Rule, Sample
from harness.core.scored import ScoredEvaluation
from harness.evals import evaluation
from harness.gate import decide, promote
from rlrf.config import Config
from rlrf.loop import train
from rlrf.report import STAGES, report, stage_seconds
from rlrf.result import GateVerdict, Iteration, RunResult, Sealed
from rlrf.stage_folder import MANIFEST, Manifest
from rlrf.training_examples import ExamplesReport

POLICY = Policy(rules=[Rule(task="toy", metric="right", margin=0.2)])
# Of the 30 gate items and the 20 sealed ones, how many each model gets right: M1 is better, M2
# worse, M3 has no pairs, M4 better still.
RIGHT = {"M0": (8, 5), "M1": (20, 13), "M2": (4, 2), "M4": (28, 18)}


def scored(split: str, right: int, model: str) -> dict[str, ScoredEvaluation]:
    items = toy.items(split)
    samples = [
        Sample(
            task="toy",
            item=item.digest,
            index=item.index,
            prompt=item.prompt,
            response=f"{item.reference['sum'] if item.index < right else 'I do not know'}",
        )
        for item in items
    ]
    built = build_evaluation(
        toy.TASK,
        items,
        samples,
        model=ModelRef(id=model, digest="d" * 64),
        engine="hf",
        decoding={},
        split=split,
        prompt_digest="p" * 64,
    )
    return {"toy": built}


def pairs(count: int) -> ExamplesReport:
    return ExamplesReport(
        kind="pairs",
        prompts=40,
        sampled=180,
        lessons=count,
        trained=2 * count,
        by_task={"toy": count},
        chosen_refined=count // 2,
        rejected_refined=0,
        skipped={"equal rewards": 40 - count},
        median_similarity=0.5 if count else None,
        mean_reward={"toy": 0.3},
        mean_tokens={"toy": 12.0},
        refinements=20,
        refinements_better=11,
        refinements_worse=3,
    )


def iteration(number: int, incumbent: str, candidate: str) -> Iteration:
    gate = None
    if candidate in RIGHT:
        gated = {
            name: scored("gate", RIGHT[name][0], name) for name in ("M0", incumbent, candidate)
        }
        against = [decide(POLICY, gated[name], gated[candidate]) for name in (incumbent, "M0")]
        gate = GateVerdict(
            vs_incumbent=against[0], vs_anchor=against[1], promotion=promote(*against)
        )
    return Iteration(
        number=number,
        explored_by=incumbent,
        candidate=candidate,
        lessons=pairs(12 if gate else 0),
        seconds=75.5,
        gate=gate,
    )


def write(run: Path, iterations: list[Iteration], incumbent: str, names: list[str]) -> None:
    sealed, anchor = [], scored("sealed", RIGHT["M0"][1], "M0")
    for name in names:
        found = scored("sealed", RIGHT[name][1], name)
        evaluation.save(found["toy"], run / "sealed" / name / "toy")
        sealed.append(
            Sealed(
                name=name,
                metrics={"toy right": found["toy"].evaluation.metrics["right"]},
                vs_anchor=None if name == "M0" else decide(POLICY, anchor, found),
            )
        )
    result = RunResult(
        run="a1b2c3",
        folder="elsewhere",
        board="elsewhere/board",
        incumbent=incumbent,
        weights="w",
        shown=["toy right"],
        iterations=iterations,
        sealed=sealed,
    )
    write_json(run / "result.json", result)
    for stage, seconds in (("explore", 10.0), ("reflect_feedback", 2.0), ("evaluate_M1", 7.0)):
        made = Manifest(inputs="i", outputs={}, seconds=seconds)
        write_json(run / "iter_1" / stage / MANIFEST, made)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    iterations = [
        iteration(1, "M0", "M1"),
        iteration(2, "M1", "M2"),
        iteration(3, "M1", "M3"),
        iteration(4, "M1", "M4"),
    ]
    assert [iteration.outcome for iteration in iterations] == [
        "promoted",
        "rolled back",
        "no pairs",
        "promoted",
    ]
    write(folder, iterations, "M4", ["M0", "M1", "M2", "M4"])
    return folder


def shown(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]*>", " ",
                                         page, flags=re.DOTALL)).split())  # fmt: skip


def test_the_run_is_told_from_the_verdict_to_the_seconds(run: Path) -> None:
    told = shown(report(run))
    assert "M4 passed the gate and is the incumbent" in told
    assert "2 of 4 candidates were promoted" in told
    assert "toy right: 0.250 → 0.900, gain +0.650" in told
    assert "Iteration 2: M2, made from M1 ✕ rolled back" in told
    assert "Iteration 3: M3, made from M1 · no pairs" in told
    assert "40 equal rewards" in told
    assert re.search(r"M1 40 12 \(6 with a refinement chosen\) 11 / 3 of 20 0.50 28 equal rewards "
                     r"10 0 2 0 0 7 76", told)  # fmt: skip


def test_the_curve_marks_what_was_promoted_and_what_was_rolled_back(run: Path) -> None:
    (said,) = re.findall(r"<desc[^>]*>(.*?)</desc>", report(run))
    assert re.findall(r"(M\d) \(([\w ]+)\)", said) == [
        ("M0", "start"),
        ("M1", "promoted"),
        ("M2", "rolled back"),
        ("M4", "promoted"),
    ]


def test_optimism_is_the_gain_at_the_gate_minus_the_sealed_one(run: Path) -> None:
    told = shown(report(run))
    (at_gate, sealed, gap) = re.findall(
        r"M4 toy right \+(0\.\d+) \+(0\.\d+) \[[^]]*\] 20 \+(0\.\d+)", told
    )[0]
    assert float(at_gate) == pytest.approx((28 - 8) / 30, abs=5e-4)
    assert float(sealed) == pytest.approx((18 - 5) / 20, abs=5e-4)
    assert float(gap) == pytest.approx(20 / 30 - 13 / 20, abs=1e-3)


def test_every_models_answers_are_there_and_the_incumbents_are_beside_the_first(run: Path) -> None:
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', report(run))
    read = json.loads(block)
    assert read["models"] == ["M0", "M1", "M2", "M4"]
    assert read["compared"] == [0, 3]
    assert [answer["values"]["right"] for answer in read["items"][4]["answers"]] == [1, 1, 0, 1]


def test_where_no_candidate_passes_the_start_stays_and_the_last_one_is_beside_it(
    tmp_path: Path,
) -> None:
    write(tmp_path, [iteration(1, "M0", "M2")], "M0", ["M0", "M2"])
    page = report(tmp_path)
    assert "M0 stays the incumbent: no candidate passed the gate" in shown(page)
    assert '"compared":[0,1]' in page


def test_a_run_that_made_no_candidate_has_a_page_too(tmp_path: Path) -> None:
    write(tmp_path, [iteration(1, "M0", "M3")], "M0", ["M0"])
    told = shown(report(tmp_path))
    assert "0 of 1 candidate was promoted" in told
    assert "Sealed split Opened" not in told


def test_a_page_does_not_depend_on_where_the_run_lies(run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run, tmp_path / "moved")
    assert report(tmp_path / "moved") == report(run)


def test_a_folder_without_a_finished_run_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no result\.json.*To resume it"):
        report(tmp_path)


def test_the_command_writes_the_page_into_the_run(run: Path) -> None:
    from rlrf.cli.report import report as command

    done = CliRunner().invoke(command, [str(run)], catch_exceptions=False)
    assert done.output.strip() == str(run / "report.html")
    assert (run / "report.html").read_text() == report(run)
    (run / "report.html").unlink()


@pytest.mark.slow
def test_a_real_run_has_a_page_with_every_stage_timed(
    tiny_model: Path, toy_letters: None, tmp_path: Path
) -> None:
    config = Config.model_validate(
        {
            "model": str(tiny_model),
            "iterations": 1,
            "tasks": [{"name": "toy_letters", "prompts": 16}],
            "explore": {"n": 4},
            "reflect": {"m": 1},
            "pairs": {"threshold": 0.05},
            "train": {"learning_rate": 2e-2, "batch_size": 8, "max_length": 200, "epochs": 6},
            "gate": {"slice": 30, "sealed": 20},
            "engine": {"device": "cpu"},
        }
    )
    result = train(config, tmp_path / "run")
    page = report(tmp_path / "run")
    assert f"{result.incumbent} passed the gate" in shown(page)
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    answers = [item["answers"] for item in json.loads(block)["items"]]
    assert len(answers) == 20 and all(one["feedback"] for pair in answers for one in pair)
    taken = stage_seconds(tmp_path / "run" / "iter_1")
    assert taken.keys() == set(STAGES) and taken["train"] > 0 and taken["evaluate"] > 0
    assert sum(taken.values()) == pytest.approx(result.iterations[0].seconds, rel=0.1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("sealed", []), ("iterations", []), ("name", "../M0"), ("name", ".."), ("name", "a\0")],
)
def test_a_result_that_no_run_ends_with_is_refused(
    run: Path, tmp_path: Path, field: str, value: object
) -> None:
    told = json.loads((run / "result.json").read_text())
    (told["sealed"][0] if field == "name" else told)[field] = value
    write_json(tmp_path / "result.json", told)
    with pytest.raises(UserError, match=r"result\.json: (sealed|iterations)"):
        report(tmp_path)


def test_a_result_that_was_changed_is_shown_as_far_as_it_fits(run: Path, tmp_path: Path) -> None:
    told = json.loads((run / "result.json").read_text())
    told["incumbent"], told["iterations"][0]["candidate"] = "another", "a third"
    told["sealed"][1]["vs_anchor"]["checks"][0]["task"] = "another"
    write_json(tmp_path / "result.json", told)
    (tmp_path / "sealed").symlink_to(run / "sealed")
    assert "another is the incumbent without having passed the gate" in shown(report(tmp_path))
