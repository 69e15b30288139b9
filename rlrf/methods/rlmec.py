"""RLMEC: reinforcement learning with minimum editing constraint (arXiv 2401.06081).

A rewriter learns to correct wrong responses with few edits, then rewrites every response of the
policy model. The reward of a token is how likely the rewriter finds it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rlrf import stages
from rlrf.config import Config
from rlrf.context import IterationContext
from rlrf.objectives import base
from rlrf.objectives.rlmec import RewriteExample, rlmec
from rlrf.reward import Rewarded, reward_by_feedback
from rlrf.rlmec import stages as steps
from rlrf.rlmec.tokens import TokenRewards, edited, pieces
from rlrf.stages import Attempt
from rlrf.training_examples import ExamplesReport, Skipped, collect, distinct


def improve(iteration: IterationContext) -> Attempt:
    """Explore, train the rewriter, rewrite, reward each token, and train on tokens and edits."""
    explored = stages.explore(iteration)
    judged = stages.give_feedback(iteration, explored)
    corrections = steps.correct(iteration, judged)
    rewriter = steps.train_rewriter(iteration, judged, corrections)
    rewritten = steps.rewrite(iteration, rewriter, explored)
    rejudged = stages.give_feedback_on_refinements(iteration, rewritten)
    steps.measure_agreement(iteration, rewriter, judged, corrections, rejudged)
    rewards = steps.reward_tokens(iteration, rewriter, judged)
    responses = reward_by_feedback(judged.records + rejudged.records, iteration.services.tasks)
    tokenizer = base.load_policy_tokenizer(iteration.policy_model)
    rewrites, report = make_rewrites(
        responses, rewards.records, tokenizer, iteration.config, iteration.seed("rewrites")
    )
    settings = iteration.config.rlmec
    constants = [settings.clip, settings.imitation, settings.edited, settings.kept]
    return stages.train(iteration, rewrites, report, rlmec, reads=[rewards, *constants])


def make_rewrites(
    responses: Sequence[Rewarded],
    rewards: Sequence[TokenRewards],
    tokenizer: Any,
    config: Config,
    seed: int,
) -> tuple[list[RewriteExample], ExamplesReport]:
    """Make an example of each distinct response whose rewrite reaches the gold answer.

    `responses` are the explored ones and their rewrites. Responses without token rewards, rewrites
    that the length limit cut off and rewrites that repeat a wrong response are left out.
    """
    worth = {(one.item, one.repeat): one for one in rewards}
    unused: Counter[str] = Counter()

    def of_prompt(found: list[Rewarded]) -> list[RewriteExample] | Skipped:
        rewrites = {one.draft: one for one in found if one.draft is not None}
        explored = distinct(one for one in found if one.draft is None)
        if not explored:
            return "unscored"
        made = []
        for one in explored:
            given = worth.get((one.sample.item, one.sample.repeat))
            better = rewrites.get(one.sample.repeat)
            if cause := _fault(one, given, better, config.rlmec.gold):
                unused[cause] += 1
            elif given and better:
                made.append(_rewrite(one, given, better, tokenizer))
        return made or "no rewrite"

    examples, report = collect(
        responses, of_prompt, kind="rewrites", most=config.pairs.max_total, seed=seed
    )
    repaired = sum(not example.right for example in examples)
    return examples, report.model_copy(update={"chosen_refined": repaired, "unused": dict(unused)})


def _fault(
    response: Rewarded, given: TokenRewards | None, better: Rewarded | None, gold: float
) -> str:
    """Say why nothing can be learned from a response; "" if something can."""
    if better is None:
        return "not rewritten"
    if given is None:
        return "too long for the rewriter"
    if better.sample.finish_reason == "length":
        return "the rewrite is cut off"
    if better.reward is None or better.reward.value < gold:
        return "the rewrite is wrong"
    if not given.right and better.sample.response == response.sample.response:
        return "the rewrite changes nothing"
    return ""


def _rewrite(
    response: Rewarded, given: TokenRewards, better: Rewarded, tokenizer: Any
) -> RewriteExample:
    sample, rewrite = response.sample, better.sample.response
    cut = sample.finish_reason == "length"
    before = base.encode_response(sample.response, tokenizer, cut=cut)
    after = base.encode_response(rewrite, tokenizer)
    return RewriteExample(
        task=sample.task,
        item=sample.item,
        index=sample.index,
        prompt=sample.prompt,
        response=sample.response,
        cut=cut,
        right=given.right,
        tokens=given.tokens,
        rewards=given.rewards,
        rewrite=rewrite,
        rewrite_tokens=pieces(rewrite, tokenizer),
        edited=edited(before, after),
    )
