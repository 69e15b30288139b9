"""The GitHub Action: its gate step runs as GitHub runs it, on real evaluations."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.build import build_evaluation, sample_of

import tasks
from harness.core.schema import ModelRef
from harness.evals import evaluation
from rlrf.cli.gate import gate as gate_command

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS = ACTION["runs"]["steps"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PAGE = ROOT / "docs" / "ci.md"
EXPRESSION = re.compile(r"\$\{\{\s*([\w.-]+)\s*\}\}")


@dataclass
class Done:
    code: int
    log: str
    outputs: dict[str, str]
    summary: str


def run_gate(folder: Path, **inputs: str) -> Done:
    """Run the action's own gate step with `inputs`, as the runner does."""
    (step,) = [step for step in STEPS if step.get("id") == "gate"]
    known = {name: spec.get("default", "") for name, spec in ACTION["inputs"].items()}
    assert inputs.keys() <= known.keys()
    known |= inputs
    (folder / "temp" / "rlrf").mkdir(parents=True, exist_ok=True)
    (folder / "temp" / "rlrf" / "bin").symlink_to(Path(sys.executable).parent)
    output, summary = folder / "output.txt", folder / "summary.md"
    output.touch()
    summary.touch()
    env = {
        name: EXPRESSION.sub(lambda m: known[m[1].removeprefix("inputs.")], value)
        for name, value in step["env"].items()
    }
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder,
        env=os.environ
        | env
        | {
            "RUNNER_TEMP": str(folder / "temp"),
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(summary),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(done.returncode, done.stdout + done.stderr, parsed(output), summary.read_text())


def parsed(path: Path) -> dict[str, str]:
    """The outputs, read as the runner reads them: NAME=VALUE, or NAME<<END, lines, END."""
    found, lines = {}, iter(path.read_text().splitlines())
    for line in lines:
        name, equals, value = line.partition("=")
        if "<<" in name or not equals:
            name, end = line.split("<<")
            held = []
            while (line := next(lines)) != end:
                held.append(line)
            value = "\n".join(held)
        found[name] = value
    return found


@pytest.fixture
def m0(tmp_path: Path) -> str:
    return saved(tmp_path, "m0", 20)


def saved(folder: Path, name: str, wrong: int) -> str:
    task = tasks.load("mini_gsm8k")
    items = task.items("gate", None)[:200]
    samples = [
        sample_of(item, "#### 1000" if i < wrong else item.reference["answer"])
        for i, item in enumerate(items)
    ]
    made = build_evaluation(
        task,
        items,
        samples,
        model=ModelRef(id=name),
        engine="recorded",
        decoding={},
        split="gate",
        prompt_digest="p",
    )
    evaluation.save(made, folder / name)
    return name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "code", "verdict"), [(10, 0, "pass"), (90, 1, "fail"), (29, 2, "inconclusive")]
)
def test_the_step_tells_the_verdict_in_every_way(
    tmp_path: Path, m0: str, wrong: int, code: int, verdict: str
) -> None:
    done = run_gate(tmp_path, baseline=m0, candidate=saved(tmp_path, "new model", wrong))
    assert (done.code, done.outputs["verdict"]) == (code, verdict)
    assert done.outputs["decision"] == "gate/decision.json"
    decision = json.loads((tmp_path / "gate" / "decision.json").read_text())
    assert decision["verdict"] == verdict
    assert done.summary.startswith(f"## Gate: {verdict}")
    assert (tmp_path / "gate" / "gate.md").read_text() == done.summary
    assert "<testsuites" in (tmp_path / "gate" / "gate.xml").read_text()
    assert ("::error title=Gate%3A fail::" in done.log) == (verdict == "fail")
    assert ("::warning title=Gate%3A inconclusive::" in done.log) == (verdict == "inconclusive")


@pytest.mark.slow
def test_a_policy_and_a_plan_are_passed_on(tmp_path: Path, m0: str) -> None:
    (tmp_path / "my policy.yaml").write_text(
        "rules: [{task: mini_gsm8k, metric: accuracy, margin: 0.1}]"
    )
    candidate = saved(tmp_path, "m1", 29)
    assert run_gate(tmp_path, baseline=m0, candidate=candidate, policy="my policy.yaml").code == 0


@pytest.mark.slow
def test_what_cannot_be_decided_is_an_error(tmp_path: Path, m0: str) -> None:
    done = run_gate(tmp_path, baseline=m0, candidate="nowhere")
    assert (done.code, done.outputs["verdict"]) == (3, "error")
    assert "There is no folder nowhere" in done.log
    assert "::error title=Gate: error::" in done.log


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ['$(touch hacked)"; touch hacked; "`touch hacked`', "--help", "a\nverdict=pass"]
)
def test_inputs_are_text_and_never_shell(tmp_path: Path, m0: str, text: str) -> None:
    for name in ("candidate", "policy"):  # the others go the same way
        place = tmp_path / name
        place.mkdir()
        done = run_gate(place, **({"baseline": "../m0", "candidate": "../m0"} | {name: text}))
        assert (done.code, done.outputs["verdict"]) == (3, "error"), name
        assert not list(place.rglob("hacked"))


@pytest.mark.slow
def test_an_output_folder_cannot_set_other_outputs(tmp_path: Path, m0: str) -> None:
    done = run_gate(tmp_path, baseline=m0, candidate=m0, output="out\nverdict=fail\nx<<y")
    assert (done.code, done.outputs.keys()) == (0, {"verdict", "decision"})
    assert done.outputs["verdict"] == "pass"


def steps(value: Any) -> list[dict[str, Any]]:
    """Every step of an action or a workflow."""
    if "runs" in value:
        return list(value["runs"]["steps"])
    return [step for job in value["jobs"].values() for step in job["steps"]]


def workflows() -> list[tuple[str, str]]:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    shown = [(f"ci.md {i}", block) for i, block in enumerate(blocks) if "jobs:" in block]
    assert shown, "the page shows a workflow"
    files = [ROOT / "action.yml", *WORKFLOWS]
    return [*((path.name, path.read_text()) for path in files), *shown]


def test_no_input_is_pasted_into_a_script() -> None:
    for name, text in workflows():
        for step in steps(yaml.safe_load(text)):
            assert "${{" not in step.get("run", ""), name


def test_workflows_give_the_action_inputs_that_it_has() -> None:
    for name, text in workflows():
        for step in steps(yaml.safe_load(text)):
            if step.get("uses", "").startswith(("./", "OWNER/")):
                assert step["with"].keys() <= ACTION["inputs"].keys(), name


def test_the_examples_of_gitlab_and_pre_commit_run_the_gate_as_it_is() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    shown = [yaml.safe_load(block) for block in blocks if "jobs:" not in block]
    (gitlab,) = [block["gate"] for block in shown if "gate" in block]
    (hook,) = [block["repos"][0]["hooks"][0] for block in shown if "repos" in block]
    assert gitlab["script"][0] == f"pip install {hook['additional_dependencies'][0]}"
    known = {name for option in gate_command.params for name in option.opts}
    for line in (gitlab["script"][1], hook["entry"]):
        program, command, *arguments = shlex.split(line)
        assert (program, command) == ("rlrf", "gate")
        assert {word for word in arguments if word.startswith("--")} <= known
    assert gitlab["artifacts"]["reports"]["junit"] in gitlab["script"][1]


def test_every_input_and_output_is_used_and_described() -> None:
    text = (ROOT / "action.yml").read_text()
    for name, spec in ACTION["inputs"].items():
        assert spec["description"] and f"inputs.{name} " in text
        assert spec.get("required") or "default" in spec
    for spec in ACTION["outputs"].values():
        assert EXPRESSION.fullmatch(spec["value"])
