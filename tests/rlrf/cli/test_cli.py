"""The command line as a stranger meets it: results, exit codes, and sentences for bad input."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from rlrf.cli import cli, run
from rlrf.quickstart import CONFIG, M0
from tasks.mini import world

ITEMS = world.items("mini_gsm8k", "gate")
RIGHT = [item.reference["answer"] for item in ITEMS]


def responses(path: Path, answers: list[str]) -> Path:
    lines = [json.dumps({"id": i, "response": answer}) for i, answer in enumerate(answers)]
    path.write_text("\n".join(lines) + "\n")
    return path


def scored(folder: Path, wrong: int) -> Path:
    """An evaluation folder of the gate split with `wrong` wrong answers."""
    answers = ["#### 1000"] * wrong + RIGHT[wrong:]
    out = folder / f"wrong_{wrong}"
    file = responses(folder / f"wrong_{wrong}.jsonl", answers)
    assert run(["score", "mini_gsm8k", str(file), "--out", str(out)]) == 0
    return out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What is said to bad input: exit 3, one message, no traceback, nothing on stdout."""
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


def test_what_an_error_quotes_steers_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text('"\\e[2J\\e]0;owned\\a\\u202e": 1\n')
    said = refused(capsys, "train", path)
    assert "there is no key '⟨U+001B⟩[2J⟨U+001B⟩]0;owned⟨U+0007⟩⟨U+202E⟩'" in said
    assert not {"\x1b", "\x07", "\u202e"} & set(said)
    path.write_text(f"model: m\ntasks: [{{name: mini_gsm8k}}]\nseed: {'x' * 50_000}\n")
    said = refused(capsys, "train", path)
    assert "the first 4,000 of 50," in said and len(said) < 4_200


# ---- what works -----------------------------------------------------------------------------


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    assert "rlrf quickstart" in capsys.readouterr().out
    for command in cli.commands:
        assert run([command, "--help"]) == 0
        said = capsys.readouterr().out
        assert said.count(f"rlrf {command}") > 1  # the usage, and an example


def test_help_answers_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from rlrf.cli import cli, run; run(['--help']); "
        "heavy = {'torch', 'transformers', 'lm_eval', 'scipy', 'pydantic'}; "
        "sys.exit(bool(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tasks_and_their_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tasks", "--json"]) == 0
    names = {task["name"] for task in json.loads(capsys.readouterr().out)}
    assert {"gsm8k", "just_eval", "factscore", "mini_gsm8k"} <= names
    assert run(["tasks", "--path"]) == 0
    assert (Path(capsys.readouterr().out.strip()) / "mini" / "mini_gsm8k.yaml").exists()


def test_doctor_finds_the_installation_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    found = {finding["name"] for finding in json.loads(capsys.readouterr().out)}
    assert {"python", "torch", "trl", "lm-eval"} <= found


@pytest.mark.slow
def test_the_gate_says_pass_regression_and_inconclusive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = scored(tmp_path, 100)
    # The default margin is 5 points: equal, 15 points worse, and 5 points worse.
    for wrong, code, verdict in ((100, 0, "pass"), (250, 1, "fail"), (150, 2, "inconclusive")):
        candidate = scored(tmp_path, wrong)
        markdown, junit = tmp_path / "gate.md", tmp_path / "gate.xml"
        capsys.readouterr()
        arguments = ["gate", baseline, candidate, "--json"]
        arguments += ["--markdown", markdown, "--junit", junit]
        assert run([str(a) for a in arguments]) == code
        assert json.loads(capsys.readouterr().out)["verdict"] == verdict
        assert verdict in markdown.read_text()
        failed = ET.parse(junit).getroot().iter("failure")
        assert bool(list(failed)) == (code == 1)


@pytest.mark.slow
def test_a_policy_sets_the_margin(tmp_path: Path) -> None:
    baseline, candidate = scored(tmp_path, 100), scored(tmp_path, 150)
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "rules:\n  - {task: mini_gsm8k, metric: accuracy, tier: critical, margin: 0.1}\n"
    )
    assert run(["gate", str(baseline), str(candidate), "--policy", str(policy)]) == 0


def test_a_board_is_added_to_verified_and_rendered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board, evaluation = str(tmp_path / "board"), scored(tmp_path, 10)
    assert run(["board", "add", board, str(evaluation), "--name", "first"]) == 0
    assert run(["board", "verify", board]) == 0
    capsys.readouterr()
    assert run(["board", "render", board]) == 0
    assert "| first |" in capsys.readouterr().out
    picture = tmp_path / "board.svg"
    assert run(["board", "render", board, "--svg", str(picture), "--split", "gate"]) == 0
    assert "<svg" in picture.read_text()
    ledger = Path(board) / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace("0.99", "0.98", 1))
    assert run(["board", "verify", board]) == 3


@pytest.mark.slow
def test_slices_of_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = scored(tmp_path, 10)
    capsys.readouterr()
    assert run(["slices", str(evaluation)]) == 0
    assert capsys.readouterr().out.splitlines() == ["steps"]
    assert run(["slices", str(evaluation), "--by", "steps", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(one["accuracy"]["n"] for one in found.values()) == 1000
    assert run(["slices", str(evaluation), "--by", "steps", "--metrics", "all"]) == 0
    assert "strict_match" in capsys.readouterr().out
    assert "they have steps" in refused(capsys, "slices", evaluation, "--by", "topic")
    assert "no metric 'acc'" in refused(
        capsys, "slices", evaluation, "--by", "steps", "--metrics", "acc"
    )


@pytest.mark.slow
def test_slices_allow_for_clusters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = str(scored(tmp_path, 300))

    def shown(*options: str) -> dict[str, Any]:
        capsys.readouterr()
        assert run(["slices", evaluation, "--json", *options]) == 0
        results: dict[str, Any] = json.loads(capsys.readouterr().out)
        return results

    whole = shown("--cluster", "steps")
    assert [*whole] == ["all items"]
    found = whole["all items"]["accuracy"]
    assert (found["mean"], found["n"], found["clusters"]) == (
        0.7,
        1000,
        len(shown("--by", "steps")),
    )
    assert found["high"] - found["low"] > 2 * 1.96 * (0.7 * 0.3 / 1000) ** 0.5
    for by_metric in shown("--by", "steps", "--cluster", "steps").values():
        assert (by_metric["accuracy"]["clusters"], by_metric["accuracy"]["low"]) == (1, None)
    for by_metric in shown("--by", "steps").values():
        assert "clusters" not in by_metric["accuracy"]
    assert run(["slices", evaluation, "--cluster", "steps"]) == 0
    assert f"1000 in {found['clusters']} clusters" in capsys.readouterr().out
    said = refused(capsys, "slices", evaluation, "--cluster", "step")
    assert "cannot be clustered by 'step'" in said and "Did you mean 'steps'?" in said


def test_data_may_be_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names.txt").write_text("Ada Vale\n")
    answers = tmp_path / "answers.jsonl"
    answers.write_text(json.dumps({"id": 0, "response": "Ada Vale was born in Oster."}))
    assert run(["score", "factscore", str(answers), "--data", str(tmp_path / "names.txt")]) == 0
    assert "responded" in capsys.readouterr().out


# ---- bad input ------------------------------------------------------------------------------


def test_wrong_options_and_commands_exit_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--frsh" in refused(capsys, "quickstart", "--frsh")
    assert "trian" in refused(capsys, "trian")
    assert "Missing" in refused(capsys, "eval")


def test_an_unknown_key_names_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"model: {M0}\ntasks:\n  - name: mini_gsm8k\ntrain:\n  learning_rat: 1\n")
    said = refused(capsys, "train", config, "--out", tmp_path / "run")
    assert "config.yaml" in said and "train.learning_rat" in said and "learning_rate" in said


def test_an_unknown_task_names_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = responses(tmp_path / "answers.jsonl", RIGHT)
    assert "'mini_gsm8k'" in refused(capsys, "score", "mini_gsm8", file)
    assert "'mini_gsm8k'" in refused(capsys, "eval", "--model", M0, "--tasks", "mini_gsm8")
    config = tmp_path / "config.yaml"
    config.write_text(f"model: {M0}\ntasks:\n  - name: mini_gsm8\n")
    assert "'mini_gsm8k'" in refused(capsys, "train", config, "--out", tmp_path / "run")


def test_a_model_folder_without_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(M0, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    said = refused(capsys, "eval", "--model", bare, "--tasks", "mini_gsm8k", "--limit", 1)
    assert "no weights" in said and str(bare) in said
    config = tmp_path / "config.yaml"
    config.write_text("model: bare\ntasks:\n  - name: mini_gsm8k\n")
    assert "no weights" in refused(capsys, "train", config, "--out", tmp_path / "run")


def test_a_model_with_another_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoTokenizer

    other = tmp_path / "other"
    shutil.copytree(M0, other)
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens([f"<extra-{i}>" for i in range(50)])
    tokenizer.save_pretrained(other)
    said = refused(capsys, "eval", "--model", other, "--tasks", "mini_gsm8k", "--limit", 1)
    assert "another model's tokenizer" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": 0, "response": "#### 1"', "line 1001: not JSON"),
        ('["#### 1"]', "line 1001: an object"),
        ('{"id": 0, "response": "#### 1"}', "line 1001"),
        ('{"id": 5000, "response": "#### 1"}', "id 5000"),
    ],
)
def test_unfit_response_lines_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    file = responses(tmp_path / "answers.jsonl", RIGHT)
    file.write_text(file.read_text() + line + "\n")
    told = refused(capsys, "score", "mini_gsm8k", file)
    assert str(file) in told and said in told


def test_missing_responses_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = responses(tmp_path / "answers.jsonl", RIGHT[:990])
    told = refused(capsys, "score", "mini_gsm8k", file)
    assert "10 " in told and "990" in told


def test_a_run_folder_of_another_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_text('{"config": "another"}')
    said = refused(capsys, "train", CONFIG, "--out", out)
    assert "--fresh" in said and "--out" in said
    assert (out / "run.json").read_text() == '{"config": "another"}'


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    file = responses(tmp_path / "answers.jsonl", RIGHT)
    out = tmp_path / "evaluation"
    rlrf = Path(sys.executable).parent / "rlrf"
    done = subprocess.run(
        [rlrf, "score", "mini_gsm8k", file, "--out", out],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.returncode == 3
    assert "Cannot write" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in out.iterdir()] == [".lock"]


def test_folders_that_hold_no_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = scored(tmp_path, 0)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(empty) in refused(capsys, "gate", good, empty)
    assert str(tmp_path / "nowhere") in refused(capsys, "gate", tmp_path / "nowhere", good)
