"""Clusters and sizes as they are typed: `rlrf gate`, `rlrf plan` and `rlrf certify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import lm_eval_stock
from helpers.build import build_evaluation, sample_of
from helpers.commands import refused, rlrf

import tasks
from harness.core.schema import Item, ModelRef
from harness.evals import evaluation, lm_eval_results

TASK = tasks.load("mini_gsm8k")
POLICY = "rules:\n  - {task: mini_gsm8k, metric: accuracy, tier: critical, margin: 0.2}\n"
Capture = pytest.CaptureFixture[str]


def items() -> list[Item]:
    """Two hundred questions, ten of each of twenty templates."""
    return [
        item.model_copy(update={"tags": item.tags | {"template": [f"t{i // 10}"]}})
        for i, item in enumerate(TASK.items("gate", None)[:200])
    ]


def saved(folder: Path, seed: int) -> Path:
    """A run whose answers to all questions of a template are right or wrong together."""
    right = np.repeat(np.random.default_rng(seed).random(20) < 0.6, 10)
    samples = [
        sample_of(item, f"#### {item.reference['answer'] if ok else 'none'}")
        for item, ok in zip(items(), right, strict=True)
    ]
    made = build_evaluation(
        TASK, items(), samples, model=ModelRef(id="m"), engine="recorded",
        decoding={"temperature": 1.0}, split="gate", prompt_digest="p", seed=seed,
    )  # fmt: skip
    evaluation.save(made, folder)
    return folder


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("sides")
    return saved(root / "before", 1), saved(root / "after", 2)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def told(capsys: Capture) -> dict[str, Any]:
    return dict(json.loads(capsys.readouterr().out))


def test_the_gate_is_told_clusters_by_a_tag_or_by_a_file(
    sides: tuple[Path, Path], policy: Path, tmp_path: Path, capsys: Capture
) -> None:
    gate = ["gate", *sides, "--policy", policy, "--json"]
    rlrf(*gate)
    alone = told(capsys)
    assert "items share 'template' (20 values)" in alone["notes"][0]
    rlrf(*gate, "--cluster", "template")
    (by_tag,) = told(capsys)["checks"]
    assert by_tag["clusters"] == 20
    assert by_tag["high"] - by_tag["low"] > 2 * (
        alone["checks"][0]["high"] - alone["checks"][0]["low"]
    )
    file = tmp_path / "clusters.csv"
    rows = "".join(f"{item.index},{item.tags['template'][0]},x\n" for item in items())
    file.write_text(f"index,template,author\n{rows}")
    rlrf(*gate, "--clusters", file, "--cluster", "template")
    assert told(capsys)["checks"] == [by_tag]
    assert "say with --cluster" in refused(capsys, *gate, "--clusters", file)
    file.write_text("index,passage\n" + rows.replace(",x", ""))
    rlrf(*gate, "--clusters", file)
    assert told(capsys)["checks"] == [by_tag]


def test_the_table_says_how_many_clusters(
    sides: tuple[Path, Path], policy: Path, capsys: Capture
) -> None:
    rlrf("gate", *sides, "--policy", policy, "--cluster", "template")
    out = capsys.readouterr().out
    assert "200 in 20 clusters" in out and "Note" not in out
    rlrf("gate", *sides, "--policy", policy)
    assert "- Note, mini_gsm8k: items share 'template'" in capsys.readouterr().out


@pytest.mark.slow
def test_a_plan_with_clusters_is_followed(
    sides: tuple[Path, Path], tmp_path: Path, capsys: Capture
) -> None:
    before, after = sides
    policy, out = tmp_path / "policy.yaml", tmp_path / "plan.json"
    policy.write_text(POLICY.replace("0.2", "0.5").replace("accuracy,", "accuracy,"))
    plan = ["plan", policy, "--baseline", before, "--second", after, "--out", out]
    assert rlrf(*plan, "--cluster", "template") == 0
    shown = capsys.readouterr()
    assert "design effect" in shown.out and "(second run)" in shown.out
    assert "Note" not in shown.err
    rlrf("gate", "--plan", out, *sides, "--json")
    (check,) = told(capsys)["checks"]
    assert check["clusters"] == 20
    said = refused(capsys, "gate", "--plan", out, *sides, "--cluster", "template")
    assert "A plan says what clusters" in said
    assert rlrf(*plan, "--cluster", "template", "--icc", 0.1) == 0
    assert "(stated)" in capsys.readouterr().out
    assert rlrf(*plan) == 0
    assert "Note: mini_gsm8k: items share 'template'" in capsys.readouterr().err


def test_a_sequential_plan_says_what_it_is_about(
    sides: tuple[Path, Path], tmp_path: Path, capsys: Capture
) -> None:
    policy, out = tmp_path / "policy.yaml", tmp_path / "plan.json"
    policy.write_text(POLICY)
    plan = ["plan", policy, "--baseline", sides[0], "--discordance", 0.1, "--out", out]
    assert rlrf(*plan, "--sequential") == 0
    shown = capsys.readouterr()
    assert "| population |" in shown.out and "sequential about the population" in shown.err
    assert rlrf(*plan, "--sequential", "--estimand", "items") == 0
    shown = capsys.readouterr()
    assert "| items " in shown.out and "planned items alone" in shown.err
    rlrf("gate", "--plan", out, *sides)
    assert "not about other questions" in capsys.readouterr().out
    assert "add --sequential" in refused(capsys, *plan, "--estimand", "items")


@pytest.mark.slow
def test_items_are_counted_without_any_evaluation(
    policy: Path, tmp_path: Path, capsys: Capture
) -> None:
    picture = tmp_path / "items.svg"
    assert rlrf("plan", policy, "--discordance", 0.1, "--svg", picture) == 0
    out = capsys.readouterr().out
    assert "Tango score test" in out and "(exact)" in out and "| 0.2 |" in out
    assert "margin 0.2" in picture.read_text()
    assert rlrf("plan", policy, "--discordance", 0.1, "--json") == 0
    (table,) = told(capsys)["tables"]
    assert table["margins"][1]["items"]["0.8"] > 0
    assert rlrf("plan", policy, "--discordance", 0.1, "--clusters", 20, "--icc", 0.3) == 0
    assert "in 20 clusters of correlation 0.3" in capsys.readouterr().out
    assert rlrf("plan", "just_eval", "--sd", 0.6) == 0
    assert "just_eval overall" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Give --discordance for yes/no"),
        (["--discordance", 0.1, "--out", "p.json"], "--out needs a --baseline"),
        (["--discordance", 0.1, "--sequential"], "--sequential needs a --baseline"),
        (["--discordance", 0.1, "--cluster", "a"], "--cluster needs a --baseline"),
        (["--discordance", 0.1, "--second", "x"], "--second needs a --baseline"),
        (["--discordance", 0.1, "--clusters", "c.csv"], "give the number of clusters"),
        (["--discordance", 0.1, "--clusters", 20], "give both --clusters and --icc"),
        (["--sd", 0.1], "give --discordance"),
    ],
)
def test_what_needs_a_baseline_is_said(
    policy: Path, capsys: Capture, arguments: list[object], said: str
) -> None:
    assert said in refused(capsys, "plan", policy, *arguments)


def test_what_is_for_a_plan_without_a_baseline_is_said(
    sides: tuple[Path, Path], policy: Path, tmp_path: Path, capsys: Capture
) -> None:
    plan = ["plan", policy, "--baseline", sides[0], "--discordance", 0.1]
    assert "--out" in refused(capsys, *plan)
    out = ["--out", tmp_path / "plan.json"]
    assert "--svg" in refused(capsys, *plan, *out, "--svg", tmp_path / "a.svg")
    assert "--clusters FILE" in refused(capsys, *plan, *out, "--clusters", 20)
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.slow
def test_a_certificate_shows_the_rules_at_the_margin(
    sides: tuple[Path, Path], policy: Path, capsys: Capture
) -> None:
    certify = ["certify", *sides, "--policy", policy, "--gates", 60, "--cluster", "template"]
    assert rlrf(*certify) == 0
    out = capsys.readouterr().out
    assert "passes at the margin, losses as seen" in out
    assert "passes at the margin, rare collapse" in out
    assert "Of candidates exactly at the margin 5.0% may pass." in out
    assert rlrf(*certify, "--json") == 0
    (rule,) = told(capsys)["rules"]
    assert [one["kind"] for one in rule["at_margin"]] == ["losses as seen", "rare collapse"]


DOCUMENTS = """
import datasets

def splits(**_):
    rows = [
        {
            "question": f"What is {i} plus 2?",
            "answer": "lol" if (i // 5) % 2 == 0 else str(i + 2),
            "passage": {"id": i // 5},
            "group": f"g{i // 5}",
            "all": "same",
        }
        for i in range(60)
    ]
    return {"test": datasets.Dataset.from_list(rows)}
"""


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What lm-eval itself writes of a task whose documents share passages."""
    folder = lm_eval_stock.make_tasks(tmp_path_factory.mktemp("stock"))
    (folder / "documents.py").write_text(DOCUMENTS)
    return lm_eval_stock.evaluate(folder, folder / "out", ["sums"], limit=None)


@pytest.mark.parametrize("key", ["doc.passage.id", "doc.group", "group"])
def test_a_field_of_lm_evals_documents_names_clusters(
    stock: Path, capsys: Capture, tmp_path: Path, key: str
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("rules:\n  - {task: sums, metric: exact_match, margin: 0.3}\n")
    rlrf("gate", stock, stock, "--policy", policy, "--cluster", key, "--json")
    decision = told(capsys)
    assert decision["checks"][0]["clusters"] == 12
    assert set(decision["clusters"]["sums"]) == {key}


def test_a_field_that_documents_lack_is_said_with_those_that_they_have(
    stock: Path, capsys: Capture
) -> None:
    said = refused(capsys, "gate", stock, stock, "--cluster", "doc.passages")
    assert "'doc.passages', which is not a tag or field" in said
    assert "Did you mean 'doc.passage'?" in said


def test_documents_are_not_part_of_an_items_identity(stock: Path) -> None:
    (logged,) = lm_eval_results.load(stock).values()
    item = logged.items[0]
    assert item.document["group"] == "g0"
    assert item.digest == item.model_copy(update={"document": {}}).digest
    assert item.digest == logged.scores[0].item


def test_passages_that_answers_share_are_suggested(stock: Path, capsys: Capture) -> None:
    rlrf("gate", stock, stock, "--json")
    (note,) = told(capsys)["notes"]
    assert "sums: items share 'doc.group' (12 values)" in note
