"""Rules for every subgroup as they are typed: `rlrf gate`, `plan`, `report` and `certify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from helpers import lm_eval_stock
from helpers.build import build_evaluation, sample_of
from helpers.commands import refused, rlrf

import tasks
from harness.core.schema import Item, ModelRef
from harness.evals import evaluation

TASK = tasks.load("mini_gsm8k")
OVERALL = "  - {task: mini_gsm8k, metric: accuracy, tier: critical, margin: 0.1}\n"
EVERY = "  - {task: mini_gsm8k, metric: accuracy, tier: guardrail, margin: 0.1, every: topic}\n"
ODD = "odd | <b>topic</b>"
Capture = pytest.CaptureFixture[str]


def topic(i: int) -> str:
    """Nine topics of forty items each, and a rare one with an awkward name."""
    return ODD if i >= 360 else f"topic {i % 9}"


def items() -> list[Item]:
    return [
        item.model_copy(update={"tags": {"topic": [topic(i)]}})
        for i, item in enumerate(TASK.items("gate", None)[:366])
    ]


def saved(folder: Path, *lost: str, repeats: int = 1) -> Path:
    """A run that answers half of the items of the `lost` topics wrong, and all others right."""
    samples = []
    for i, item in enumerate(items()):
        ok = topic(i) not in lost or i // 9 % 2
        for repeat in range(repeats):
            sample = sample_of(item, f"#### {item.reference['answer'] if ok else 'none'}")
            samples.append(sample.model_copy(update={"repeat": repeat}))
    made = build_evaluation(
        TASK, items(), samples, model=ModelRef(id="m"), engine="recorded",
        decoding={"temperature": 1.0}, split="gate", prompt_digest="p",
    )  # fmt: skip
    evaluation.save(made, folder)
    return folder


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("sides") / "before")


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("sides") / "after", "topic 4")


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(f"rules:\n{OVERALL}{EVERY}")
    return path


def test_a_candidate_that_wins_on_average_and_loses_a_topic_exits_with_1(
    before: Path, after: Path, policy: Path, tmp_path: Path, capsys: Capture
) -> None:
    markdown, junit = tmp_path / "gate.md", tmp_path / "gate.xml"
    gate = ["gate", before, after, "--policy", policy]
    assert rlrf(*gate, "--markdown", markdown, "--junit", junit, "--github") == 1
    out = "".join(capsys.readouterr())
    assert "items share 'topic'" not in out  # the policy knows of it
    assert "::error title=mini_gsm8k accuracy%2C every topic%3A fail" in out
    text = markdown.read_text()
    assert "- mini_gsm8k accuracy, every topic (guardrail): fail, 1 of 10 subgroups" in text
    assert "the worst is 'topic 4' with a gain of -0.5, between -0.6" in text
    table = text.split("### mini_gsm8k accuracy, every topic: the worst of 10")[1]
    assert table.count("\n| topic 4 | fail | 1 | 0.5 | -0.5 [") == 1
    assert table.count("\n| ") == 1 + 1 + 5 + 1  # head, rule, the worst five, all items
    assert "\n| all items | - |" in table and "5 more: " in table
    assert "level 0.05 and the upper end 0.005, corrected for the number" in table
    assert "<b>" not in text
    cases = {case.get("name"): case for case in ElementTree.parse(junit).iter("testcase")}
    assert [*cases] == ["accuracy", "accuracy, every topic", "verdict"]
    failed = cases["accuracy, every topic"]
    assert failed.find("failure") is not None and cases["accuracy"].find("failure") is None
    assert "topic 4, fail: 1 -> 0.5" in (failed.findtext("system-out") or "")
    assert rlrf(*gate, "--json") == 1
    check = json.loads(capsys.readouterr().out)["checks"][1]
    found = check["subgroups"]
    assert (found["by"], found["results"][0]["name"], len(found["results"])) == (
        "topic", "topic 4", 10,
    )  # fmt: skip
    assert check["delta"] == found["results"][0]["delta"] == -0.5


def test_the_page_shows_the_worst_subgroups(
    before: Path, after: Path, policy: Path, tmp_path: Path, capsys: Capture
) -> None:
    page = tmp_path / "page.html"
    sides = ["--baseline", before, "--candidate", after]
    assert rlrf("report", *sides, "--policy", policy, "--out", page) == 0
    text = page.read_text()
    assert "mini_gsm8k accuracy, every topic" in text
    assert '<span class="soft">topic</span> topic 4' in text and "topic: 5 more: " in text
    assert "<b>topic</b>" not in text


def test_small_topics_do_not_hold_up_a_guardrail(
    before: Path, tmp_path: Path, policy: Path, capsys: Capture
) -> None:
    same = saved(tmp_path / "same")
    assert rlrf("gate", before, same, "--policy", policy) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "(n 6)) cannot pass even if nothing changed: too few items" in out
    policy.write_text(f"rules:\n{EVERY.replace('guardrail', 'critical')}")
    assert rlrf("gate", before, same, "--policy", policy) == 2


def test_what_subgroups_cannot_be_is_said(
    before: Path, after: Path, policy: Path, tmp_path: Path, capsys: Capture
) -> None:
    gate = ["gate", before, after, "--policy", policy]
    policy.write_text(f"rules:\n{EVERY.replace('every: topic', 'every: topics')}")
    said = refused(capsys, *gate)
    assert "cannot be divided into subgroups by 'topics'" in said and "Did you mean 'topic'" in said
    policy.write_text(f"rules:\n{EVERY.replace('every: topic', 'evry: topic')}")
    assert "every" in refused(capsys, *gate)
    policy.write_text(f"rules:\n{EVERY}{EVERY}")
    assert "two rules for mini_gsm8k accuracy, every topic" in refused(capsys, *gate)
    noisy = EVERY.replace("}", ", noise: {sd: 0.01, runs: 9}}")
    policy.write_text(f"rules:\n{noisy}")
    assert "noise is measured on all items" in refused(capsys, *gate)
    policy.write_text(f"rules:\n{EVERY}")
    plan = ["plan", policy, "--baseline", before, "--discordance", 0.1, "--sequential"]
    assert "sequential test does not compare" in refused(capsys, *plan, "--out", tmp_path / "p")


def test_a_file_names_subgroups_and_no_clusters(
    before: Path, after: Path, policy: Path, tmp_path: Path, capsys: Capture
) -> None:
    rlrf("gate", before, after, "--policy", policy, "--json")
    expected = json.loads(capsys.readouterr().out)["checks"]
    file = tmp_path / "levels.csv"
    rows = "".join(f'{i},"{topic(i)}"\n' for i in range(366))
    file.write_text(f"index,level\n{rows}")
    policy.write_text(policy.read_text().replace("every: topic", "every: level"))
    assert rlrf("gate", before, after, "--policy", policy, "--clusters", file, "--json") == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert checks[1]["subgroups"]["results"] == expected[1]["subgroups"]["results"]
    assert "clusters" not in checks[0]


def test_a_plan_shows_the_power_in_each_subgroup_and_is_followed(
    before: Path, after: Path, policy: Path, tmp_path: Path, capsys: Capture
) -> None:
    plan = tmp_path / "plan.json"
    make = ["plan", policy, "--baseline", before, "--discordance", 0.01, "--out", plan]
    assert rlrf(*make) == 0
    out = capsys.readouterr().out
    assert "mini_gsm8k accuracy, every topic: 9 of 10 subgroups pass an unchanged model" in out
    assert "| topic 0 " in out and "loss seen" in out
    assert rlrf("gate", "--plan", plan, before, after) == 1
    assert "'topic 4'" in capsys.readouterr().out
    policy.write_text(f"rules:\n{EVERY.replace('guardrail', 'critical')}")
    assert "would pass an unchanged candidate in all 10 subgroups" in refused(capsys, *make)
    assert rlrf("plan", policy, "--discordance", 0.1) == 0
    assert "every topic (items in each)" in capsys.readouterr().out


def test_a_certificate_counts_the_false_alarms_of_a_rule_for_every_subgroup(
    tmp_path: Path, policy: Path, capsys: Capture
) -> None:
    samples = []
    for i, item in enumerate(items()):
        for repeat in range(4):
            right = (i + repeat) % 7 != 0
            text = f"#### {item.reference['answer'] if right else 'none'}"
            samples.append(sample_of(item, text).model_copy(update={"repeat": repeat}))
    made = build_evaluation(
        TASK, items(), samples, model=ModelRef(id="m"), engine="recorded",
        decoding={"temperature": 1.0}, split="gate", prompt_digest="p",
    )  # fmt: skip
    evaluation.save(made, tmp_path / "runs")
    rlrf("certify", tmp_path / "runs", "--policy", policy, "--gates", 10, "--json")
    rules = json.loads(capsys.readouterr().out)["rules"]
    assert [rule.get("every") for rule in rules] == [None, "topic"]
    assert rules[1]["failed"] == 0 and rules[1]["at_margin"] == []


def test_doctor_names_small_subgroups_and_refuses_a_tag_that_no_item_has(
    tmp_path: Path, tiny_model: Path, capsys: Capture
) -> None:
    rule = {"task": "mini_gsm8k", "metric": "accuracy", "margin": 0.1, "tier": "guardrail"}
    config = tmp_path / "config.yaml"

    def gate(every: str) -> str:
        settings = {
            "model": str(tiny_model),
            "tasks": [{"name": "mini_gsm8k"}],
            "gate": {"slice": 60, "sealed": 20, "policy": {"rules": [rule | {"every": every}]}},
        }
        config.write_text(json.dumps(settings))
        rlrf("doctor", config)
        return " ".join("".join(capsys.readouterr()).split())

    said = gate("steps")
    assert "mini_gsm8k accuracy, every steps: 3 of 3 subgroups have fewer than the" in said
    assert "the smallest is '" in said
    assert "Did you mean 'steps'" in gate("step")


@pytest.mark.slow
def test_every_task_of_a_group_of_lm_eval_is_a_subgroup(tmp_path: Path, capsys: Capture) -> None:
    folder = lm_eval_stock.make_tasks(tmp_path / "tasks")
    old, new = (
        lm_eval_stock.evaluate(folder, tmp_path / f"run{seed}", ["school"], seed=seed, limit=None)
        for seed in (0, 1)
    )
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "rules:\n  - {task: school, metric: acc, tier: guardrail, margin: 0.1, every: task}\n"
    )
    rlrf("gate", old, new, "--policy", policy, "--json")
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    results = told["checks"][0]["subgroups"]["results"]
    assert {one["name"] for one in results} == {"school_a", "school_b", "school_c"}
