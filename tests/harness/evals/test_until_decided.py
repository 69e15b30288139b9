"""A candidate is evaluated because the gate asks: in the planned order, and no further than needed.

A tiny random model answers the real items of the embedded world; a baseline that is better than it
is made by putting the right answers in the place of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.build import build_evaluation

import tasks
from harness.core.errors import UserError
from harness.core.schema import ModelRef, Policy, Rule
from harness.core.scored import ScoredEvaluation
from harness.evals import evaluation
from harness.evals.evaluate import EvalOptions, evaluate
from harness.evals.until_decided import CandidateModel
from harness.gate import gate, plan
from harness.gate.plan import Plan
from harness.gate.planned_rule import AssumedSpread

TASK = "mini_gsm8k"
ITEMS = 256
POLICY = Policy(rules=[Rule(task=TASK, metric="accuracy", margin=0.1)])


@pytest.fixture(scope="module")
def own(engine: Any) -> dict[str, ScoredEvaluation]:
    """What the tiny model itself answers: nothing right."""
    return evaluate(engine, [TASK], EvalOptions(split="gate", limit=ITEMS, max_tokens=None))


@pytest.fixture(scope="module")
def better(own: dict[str, ScoredEvaluation]) -> dict[str, ScoredEvaluation]:
    """The same evaluation of a model that has every second item right."""
    made = own[TASK]
    answers = {item.digest: item.reference["answer"] for item in made.items}
    samples = [
        s.model_copy(update={"response": answers[s.item] if s.index % 2 else s.response})
        for s in made.samples
    ]
    e = made.evaluation
    return {
        TASK: build_evaluation(
            tasks.load(TASK),
            made.items,
            samples,
            model=ModelRef(id="better", digest="b"),
            engine=e.engine,
            decoding=e.decoding,
            split=e.split,
            prompt_digest=e.prompt_digest,
        )
    }


def planned(baseline: dict[str, ScoredEvaluation], discordance: float = 0.15) -> Plan:
    return plan.make_plan(
        POLICY, baseline, assumed=AssumedSpread(discordance=discordance), sequential=True
    )


def plugins() -> list[Any]:
    return [tasks.load(TASK)]


@pytest.mark.slow
def test_a_worse_candidate_is_stopped_early(
    engine: Any, better: dict[str, ScoredEvaluation], tmp_path: Path
) -> None:
    made = planned(better)
    decision, candidate = CandidateModel(engine, plugins()).evaluate_until_decided(
        made, better, out=tmp_path
    )
    (check,) = decision.checks
    assert decision.verdict == "fail"
    assert (check.planned, check.n < 150) == (ITEMS, True)
    assert decision.plan == made.identity
    assert decision.baseline == {TASK: better[TASK].evaluation.identity}
    # What was asked is the first of the committed order, whole batches of it.
    asked = {score.item for score in candidate[TASK].scores}
    drawn = plan.planned_orders(made, better)[TASK]
    assert asked == set(drawn[: len(asked)])
    assert len(asked) < ITEMS
    saved = evaluation.load(tmp_path)[TASK]
    assert gate(better, {TASK: saved}, POLICY, plan=made) == decision
    assert saved.evaluation.identity == decision.candidate[TASK]
    assert saved.evaluation.items == len(asked)


@pytest.mark.slow
def test_an_equal_candidate_passes_before_the_end(
    engine: Any, own: dict[str, ScoredEvaluation]
) -> None:
    # The tiny model has nothing right, so that nothing can be lost: the policy has to allow that.
    rules = [POLICY.rules[0].model_copy(update={"allow_floor": True})]
    policy = POLICY.model_copy(update={"rules": rules})
    made = plan.make_plan(
        policy, own, assumed=AssumedSpread(discordance=0.19), sequential=True, estimand="items"
    )
    decision, candidate = CandidateModel(engine, plugins()).evaluate_until_decided(made, own)
    (check,) = decision.checks
    assert decision.verdict == "pass"
    assert check.n <= candidate[TASK].evaluation.items < ITEMS
    assert f"of {ITEMS} items" in check.reason


def test_the_verdict_is_that_of_the_same_items_at_rest(
    engine: Any, better: dict[str, ScoredEvaluation], own: dict[str, ScoredEvaluation]
) -> None:
    made = planned(better)
    driven, _ = CandidateModel(engine, plugins()).evaluate_until_decided(made, better)
    at_rest = plan.decide_by_plan(made, better, own)
    assert driven.checks == at_rest.checks


@pytest.mark.slow
def test_what_was_answered_is_not_asked_again(
    engine: Any,
    better: dict[str, ScoredEvaluation],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Cut(Exception):
        pass

    asked: list[Sequence[str]] = []
    generate = type(engine).generate

    def counted(self: Any, prompts: Sequence[str], *rest: Any, **options: Any) -> Any:
        if len(asked) == 1:
            asked.append([])
            raise Cut
        asked.append(prompts)
        return generate(self, prompts, *rest, **options)

    monkeypatch.setattr(type(engine), "generate", counted)
    weak = POLICY.model_copy(update={"rules": [POLICY.rules[0].model_copy(update={"margin": 0.4})]})
    made = plan.make_plan(weak, better, assumed=AssumedSpread(discordance=0.5), sequential=True)
    with pytest.raises(Cut):
        CandidateModel(engine, plugins()).evaluate_until_decided(made, better, out=tmp_path)
    decision, _ = CandidateModel(engine, plugins()).evaluate_until_decided(
        made, better, out=tmp_path
    )
    prompts = [prompt for call in asked for prompt in call]
    assert len(prompts) == len(set(prompts)) > 32
    assert decision.checks[0].planned == ITEMS
    assert not (tmp_path / ".batches").exists()


@pytest.mark.slow
def test_without_a_sequential_plan_all_items_are_asked(
    engine: Any, own: dict[str, ScoredEvaluation], tmp_path: Path
) -> None:
    found = CandidateModel(engine, plugins()).evaluate_like(own, out=tmp_path)
    assert found[TASK].evaluation.identity == own[TASK].evaluation.identity
    assert json.loads((tmp_path / TASK / "evaluation.json").read_text())["items"] == ITEMS
    fixed = plan.make_plan(POLICY, own, assumed=AssumedSpread(discordance=0.19))
    with pytest.raises(UserError, match="not sequential"):
        CandidateModel(engine, plugins()).evaluate_until_decided(fixed, own)


def test_another_baseline_is_refused_before_anything_is_asked(
    engine: Any,
    own: dict[str, ScoredEvaluation],
    better: dict[str, ScoredEvaluation],
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match="another baseline"):
        CandidateModel(engine, plugins()).evaluate_until_decided(planned(own), better, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_candidate_answers_as_the_baseline_did(engine: Any) -> None:
    sampled = evaluate(
        engine,
        [TASK],
        EvalOptions(split="gate", limit=40, temperature=0.7, repeats=2, max_tokens=7, seed=3),
    )
    found = CandidateModel(engine, [tasks.load(TASK)]).evaluate_like(sampled)
    assert found[TASK].evaluation.decoding == sampled[TASK].evaluation.decoding
    assert found[TASK].samples == sampled[TASK].samples
