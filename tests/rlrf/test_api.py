"""The public Python API: `import rlrf`."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import quiz

import rlrf
import tasks
from harness.core.errors import UserError
from harness.core.schema import Policy, Rule
from harness.engines.hf import HFEngine
from harness.gate import plan as planning
from harness.gate.planned_rule import AssumedSpread
from rlrf.config import Config
from rlrf.gating import read_rules

FUNCTIONS = [name for name in rlrf.__all__ if inspect.isfunction(getattr(rlrf, name))]


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in `folder`, which Python searches before the installed packages."""
    (folder / "script.py").write_text(code)
    command = [sys.executable, "script.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_is_documented_and_takes_at_most_eight_parameters(name):
    function = getattr(rlrf, name)
    for section in ("Args:", "Returns:", "Raises:", "Examples:"):
        assert section in function.__doc__, section
    parameters = inspect.signature(function).parameters
    assert len(parameters) <= 8
    missing = [one for one in parameters if f"\n        {one}: " not in function.__doc__]
    assert missing == []


def test_importing_it_loads_no_heavy_library(tmp_path):
    heavy = ("torch", "transformers", "lm_eval", "trl", "numpy", "scipy", "pydantic", "click")
    made = python(f"import rlrf, sys; print([m for m in {heavy} if m in sys.modules])", tmp_path)
    assert made.stdout == "[]\n"


def test_its_names_are_listed_and_others_do_not_exist():
    assert set(rlrf.__all__) == set(dir(rlrf))
    assert rlrf.testing.assert_no_regression is not None
    with pytest.raises(AttributeError, match="no attribute 'generate'"):
        _ = rlrf.generate


@pytest.mark.parametrize("name", ["tasks", "harness"])
@pytest.mark.parametrize("kind", ["file", "package"])
def test_a_file_of_the_same_name_as_our_packages_is_named(name, kind, tmp_path):
    foreign = tmp_path / f"{name}.py" if kind == "file" else tmp_path / name / "__init__.py"
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("")
    made = python("import rlrf", tmp_path)
    assert made.returncode == 1
    assert made.stderr.splitlines()[-1] == (
        f"ImportError: rlrf needs its own package '{name}', but Python finds {foreign} under that "
        "name first. Rename that file or folder, or start Python in another folder."
    )


def test_a_foreign_module_that_is_imported_already_is_named(tmp_path):
    (tmp_path / "tasks.py").write_text("")
    made = python("import tasks, rlrf", tmp_path)
    assert str(tmp_path / "tasks.py") in made.stderr.splitlines()[-1]


def test_a_folder_of_the_same_name_that_is_not_a_package_does_no_harm(tmp_path):
    (tmp_path / "tasks").mkdir()
    made = python("import rlrf; print(rlrf.Board.__name__)", tmp_path)
    assert made.stdout == "Board\n", made.stderr


def quizzed(right: int, items: int = 200):
    """An evaluation of the quiz with so many right answers."""
    return {"quiz": quiz.make([{"accuracy": float(i < right)} for i in range(items)])}


def test_the_gate_takes_loaded_evaluations_and_a_margin():
    assert rlrf.gate(quizzed(150), quizzed(160)).verdict == "pass"
    assert rlrf.gate(quizzed(150), quizzed(100)).verdict == "fail"
    decision = rlrf.gate(quizzed(150), quizzed(146), {"accuracy": 0.2})
    assert decision.verdict == "pass" and decision.checks[0].margin == 0.2


def test_the_gate_takes_a_policy_as_a_value_or_a_file(tmp_path):
    policy = Policy(rules=[Rule(task="quiz", metric="accuracy", margin=0.3)])
    file = tmp_path / "policy.yaml"
    file.write_text("rules: [{task: quiz, metric: accuracy, margin: 0.3}]")
    decision = rlrf.gate(quizzed(150), quizzed(120), policy)
    assert decision.policy == policy
    assert rlrf.gate(quizzed(150), quizzed(120), str(file)) == decision
    assert rlrf.testing.assert_no_regression(quizzed(150), quizzed(120), file) == decision


def test_the_gate_takes_a_plan_as_a_value_or_a_file(tmp_path):
    policy = Policy(rules=[Rule(task="quiz", metric="accuracy", margin=0.2)])
    plan = planning.make_plan(policy, quizzed(150), assumed=AssumedSpread(discordance=0.1))
    file = tmp_path / "plan.json"
    file.write_text(plan.model_dump_json())
    decision = rlrf.gate(quizzed(150), quizzed(150), plan=plan)
    assert decision.plan == plan.identity and decision.verdict == "pass"
    assert rlrf.gate(quizzed(150), quizzed(150), plan=str(file)) == decision


def test_rules_that_contradict_each_other_are_refused(tmp_path):
    policy = Policy(rules=[Rule(task="quiz", metric="accuracy", margin=0.2)])
    plan = planning.make_plan(policy, quizzed(150), assumed=AssumedSpread(discordance=0.1))
    sides = quizzed(150), quizzed(150)
    with pytest.raises(UserError, match="A plan contains its policy"):
        rlrf.gate(*sides, policy, plan=plan)
    with pytest.raises(UserError, match="A policy contains its margins"):
        read_rules(policy, margins={"accuracy": 0.1})
    with pytest.raises(UserError, match="A plan contains its policy"):
        rlrf.gate(*sides, {"accuracy": 0.1}, plan=plan)
    with pytest.raises(UserError, match="says what clusters its items are in"):
        rlrf.gate(*sides, plan=plan, cluster="topic")


def test_a_configuration_without_a_file_needs_a_folder_for_its_run(tmp_path):
    config = Config.model_validate({"model": str(tmp_path), "tasks": [{"name": "mini_gsm8k"}]})
    with pytest.raises(UserError, match="needs a folder for its run"):
        rlrf.train(config)


@pytest.mark.slow
def test_training_takes_a_file_or_a_configuration(tiny_model, toy_letters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {
        "model": str(tiny_model),
        "iterations": 1,
        "tasks": [{"name": "toy_letters", "prompts": 4}],
        "explore": {"n": 2},
        "reflect": {"m": 0},
        "gate": {"slice": 4, "sealed": 4},
        "engine": {"device": "cpu"},
    }
    Path("small.yaml").write_text(json.dumps(settings))
    dry = rlrf.train("small.yaml", limit=2)
    assert Path(dry.folder) == Path("runs/small-limit")
    assert dry.iterations[0].lessons.prompts == 2
    run = rlrf.train(Config.model_validate(settings), tmp_path / "run")
    assert run.iterations[0].lessons.prompts == 4
    assert rlrf.train(Config.model_validate(settings), tmp_path / "run") == run, "resumed"


def responses(path: Path, wrong: int) -> Path:
    """Write responses to the gate split of the embedded problems, so many of them wrong."""
    items = tasks.load("mini_gsm8k").items("gate", None)
    lines = [
        {"id": item.index, "response": "#### 1000" if i < wrong else item.reference["answer"]}
        for i, item in enumerate(items)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.slow
def test_scored_responses_are_written_loaded_and_gated(tmp_path):
    for name, wrong in (("old", 200), ("new", 100)):
        scored = rlrf.score(
            "mini_gsm8k",
            responses(tmp_path / f"{name}.jsonl", wrong),
            split="gate",
            model_id=name,
            out=tmp_path / name,
        )
        assert rlrf.load_evaluation(tmp_path / name) == {"mini_gsm8k": scored}
    folders = tmp_path / "old", str(tmp_path / "new")
    decision = rlrf.gate(*folders)
    assert decision.verdict == "pass"
    assert rlrf.gate(*map(rlrf.load_evaluation, folders)) == decision
    assert rlrf.testing.assert_no_regression(*folders) == decision
    with pytest.raises(AssertionError, match="## Gate: fail"):
        rlrf.testing.assert_no_regression(*reversed(folders))


def test_a_model_is_evaluated_by_its_folder_or_its_engine(tiny_model, tmp_path):
    options = rlrf.EvalOptions(split="gate", limit=2, max_tokens=4)
    evaluated = rlrf.evaluate(tiny_model, "mini_gsm8k", options, out=tmp_path / "out")
    assert len(evaluated["mini_gsm8k"].samples) == 2
    assert rlrf.load_evaluation(tmp_path / "out") == evaluated
    engine = HFEngine(str(tiny_model), device="cpu")
    assert rlrf.evaluate(engine, ["mini_gsm8k"], options) == evaluated


def test_a_board_is_opened_and_read_by_the_name_of_a_model(tmp_path):
    scored = rlrf.score("mini_gsm8k", responses(tmp_path / "r.jsonl", 9), split="gate")
    board = rlrf.Board(tmp_path / "board")
    board.add_evaluation(scored, "M0", "by hand")
    (loaded,) = rlrf.load_evaluation(tmp_path / "board", name="M0").values()
    assert loaded.evaluation == scored.evaluation
    with pytest.raises(UserError, match="has no model 'M1'"):
        rlrf.load_evaluation(tmp_path / "board", name="M1")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_examples_of_the_documentation_run(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made = python("\n".join(blocks), tmp_path)
    assert made.returncode == 0, made.stderr[-3000:]
    assert "\npass\n" in made.stdout
    assert made.stdout.splitlines()[-1].startswith("M")
