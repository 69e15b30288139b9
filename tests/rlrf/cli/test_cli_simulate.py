"""`rlrf simulate`, `rlrf certify` and `rlrf noise`, as they are typed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.build import build_evaluation

import tasks
from harness.board import Board
from harness.core.errors import UserError
from harness.core.schema import Decision, Message, ModelRef, Noise, Sample
from harness.engines import Sampling
from harness.engines.hf import HFEngine
from harness.evals import evaluation
from harness.evals.evaluate import EvalOptions, choose_items
from rlrf.cli.certify import certify
from rlrf.cli.gate import gate
from rlrf.cli.noise import noise
from rlrf.cli.simulate import simulate

ROOT = Path(__file__).parents[3]
ITEMS = 80


def type_(command: click.Command, *words: str) -> Result:
    return CliRunner().invoke(command, list(words), standalone_mode=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Five evaluations of mini_gsm8k by one model, right on about three items in four.

    The last two were made on a day when more went well.
    """
    task = tasks.load("mini_gsm8k")
    split, items, _ = choose_items(task, EvalOptions(split="gate", limit=ITEMS))
    folders = []
    for seed in range(5):
        chance = 0.75 if seed < 3 else 0.95
        right = np.random.default_rng(seed).uniform(size=len(items)) < chance
        samples = [
            Sample(
                task=task.name,
                item=item.digest,
                index=item.index,
                prompt=item.prompt,
                response=f"#### {item.reference['answer'] if ok else 'none'}",
            )
            for item, ok in zip(items, right, strict=True)
        ]
        scored = build_evaluation(
            task, items, samples, model=ModelRef(id="m"), engine="recorded",
            decoding={"temperature": 1.0}, split=split, prompt_digest="p", seed=seed,
        )  # fmt: skip
        folders.append(tmp_path_factory.mktemp(f"run_{seed}"))
        evaluation.save(scored, folders[-1] / task.name)
    yield folders


@pytest.mark.slow
def test_policies_are_compared_in_a_table_and_a_picture(tmp_path: Path) -> None:
    drawn = tmp_path / "policies.svg"
    found = type_(simulate, "--loops", "200", "--items", "300", "--svg", str(drawn))
    assert found.exception is None
    assert "300 items" in found.stdout
    assert "| gate, fresh items |" in found.stdout
    assert drawn.read_bytes().startswith(b"<?xml")


def test_two_evaluations_set_what_is_simulated(runs: list[Path]) -> None:
    found = type_(simulate, str(runs[0]), str(runs[1]), "--loops", "50", "--items", "500", "--json")
    told = json.loads(found.stdout)
    assert told["settings"]["items"] == 500
    assert 0.2 < told["settings"]["discordance"] < 0.6
    assert 0.6 < told["settings"]["accuracy"] < 0.9
    assert {one["promotions"]["n"] for one in told["outcomes"]} == {50}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--loops", "1"], "loops"),
        (["--margin", "2"], "margin"),
        (["--items", "6"], "4 slices need at least two items each"),
        (["only_one"], "two are needed"),
    ],
)
def test_bad_input_is_a_sentence(words: list[str], said: str) -> None:
    found = type_(simulate, *words)
    assert isinstance(found.exception, UserError)
    assert said in str(found.exception)


def test_a_task_that_is_not_in_both_is_named(runs: list[Path]) -> None:
    found = type_(simulate, str(runs[0]), str(runs[1]), "--task", "gsm8k")
    assert "no evaluation of gsm8k" in str(found.exception)


@pytest.mark.slow
def test_a_gate_is_certified(runs: list[Path]) -> None:
    folders = [str(run) for run in runs[:3]]
    found = type_(certify, *folders, "--gates", "60", "--json")
    told = json.loads(found.stdout)
    assert (found.return_value, told["certified"], told["gates"]) == (0, True, 60)
    spoken = type_(certify, *folders, "--by", "runs")
    assert spoken.return_value == 1
    assert spoken.stdout.startswith("not certified: 0 false alarms in 6 gates")


@pytest.mark.slow
def test_the_gate_is_certified_on_m0s_own_samples(tmp_path: Path) -> None:
    """From the model to the certificate: two sampled answers per item, dealt to two sides."""
    task = tasks.load("mini_gsm8k")
    split, items, _ = choose_items(task, EvalOptions(split="gate", limit=60))
    engine = HFEngine(str(ROOT / "rlrf" / "quickstart" / "m0"), device="cpu")
    prompts = [engine.render([Message(role="user", content=item.prompt)]) for item in items]
    answers = engine.generate(prompts, Sampling(temperature=0.8, max_tokens=80, n=2, seed=1))
    samples = [
        Sample(
            task=task.name, item=item.digest, index=item.index, repeat=repeat, prompt=prompt,
            response=one.text, finish_reason=one.finish_reason,
        )
        for item, prompt, both in zip(items, prompts, answers, strict=True)
        for repeat, one in enumerate(both)
    ]  # fmt: skip
    scored = build_evaluation(
        task, items, samples, model=ModelRef(id=engine.model_id, digest=engine.model_digest),
        engine=engine.name, decoding={"temperature": 0.8, "n": 2}, split=split, prompt_digest="p",
    )  # fmt: skip
    evaluation.save(scored, tmp_path / task.name)
    found = type_(certify, str(tmp_path), "--gates", "60")
    assert found.return_value == 0, found.output
    assert "1 run, gated by answers" in found.stdout


def test_one_run_with_one_answer_an_item_is_refused(runs: list[Path]) -> None:
    found = type_(certify, str(runs[0]))
    assert isinstance(found.exception, UserError)
    assert "one answer per item" in str(found.exception)


@pytest.mark.slow
def test_noise_is_measured_and_given_to_the_gate_which_a_board_can_check(
    runs: list[Path], tmp_path: Path
) -> None:
    folders = [str(run) for run in runs]
    policy = tmp_path / "policy.json"
    found = type_(noise, *folders, "--out", str(policy), "--json")
    (told,) = json.loads(found.stdout)
    assert (told["runs"], told["items"], told["metric"]) == (5, ITEMS, "accuracy")
    assert told["p_value"] < 0.01
    spoken = type_(noise, *folders)
    assert "mini_gsm8k accuracy" in spoken.stdout
    assert "an unchanged model would not pass" in spoken.stderr

    decided = type_(gate, folders[0], folders[3], "--policy", str(policy), "--json")
    decision = Decision.model_validate_json(decided.stdout)
    (rule,) = decision.policy.rules
    assert rule.noise == Noise(sd=told["shared_sd"], runs=5)
    assert decided.return_value == 2
    assert type_(gate, folders[0], folders[3]).return_value == 0
    board = Board(tmp_path / "board")
    for name, folder in (("M0", runs[0]), ("M1", runs[3])):
        board.add_evaluation(evaluation.load(folder)["mini_gsm8k"], name, "run")
    board.add_decision(decision, "run", "incumbent")
    assert board.verify() == []


def test_four_runs_are_too_few_for_noise(runs: list[Path]) -> None:
    found = type_(noise, *map(str, runs[:4]))
    assert "give 5 or more" in str(found.exception)
