"""Rejection sampling: supervised fine-tuning on the best of the policy's own responses.

Best by the reward model where the run has one (H. Dong et al., arXiv 2304.06767), else by the
benchmark's score, which for mathematics keeps what is right (Z. Yuan et al., arXiv 2308.01825).
"""

from __future__ import annotations

from collections.abc import Sequence

from rlrf import stages
from rlrf.config import Pairing
from rlrf.context import IterationContext
from rlrf.objectives.base import Example
from rlrf.objectives.sft import sft
from rlrf.reward import Reward, Rewarded
from rlrf.stages import Attempt
from rlrf.training_examples import ExamplesReport, Skipped, collect, comparable


def improve(turn: IterationContext) -> Attempt:
    """Explore, keep the best responses, and learn them."""
    explored = stages.explored(turn)
    responses = stages.ranked(turn, explored)
    examples, report = best_responses(responses, turn.lab.config.pairs, turn.seed("pairs"))
    return stages.learn(turn, examples, report, sft)


def best_responses(
    responses: Sequence[Rewarded], config: Pairing, seed: int
) -> tuple[list[Example], ExamplesReport]:
    """The `config.per_prompt` best responses to each prompt, of at least `config.min_chosen`.

    Not of prompts whose responses are all equally good, nor what the length limit cut off.
    """

    def of_prompt(found: list[Rewarded]) -> list[Example] | Skipped:
        texts = comparable(found)
        if isinstance(texts, str):
            return texts
        rewards = [reward for _, reward in texts]
        if all(reward.over(rewards[0]) == 0 for reward in rewards):
            return "equal rewards"
        whole = [
            (reward, one.sample)
            for one, reward in texts
            if one.sample.finish_reason != "length" and reward.value >= config.min_chosen
        ]
        if not whole:
            return "none choosable"

        def worst_last(entry: tuple[Reward, object]) -> tuple[float, float]:
            return -entry[0].value, -entry[0].grade

        return [
            Example(
                task=sample.task,
                item=sample.item,
                index=sample.index,
                prompt=sample.prompt,
                response=sample.response,
            )
            for _, sample in sorted(whole, key=worst_last)[: config.per_prompt]
        ]

    return collect(responses, of_prompt, kind="responses", most=config.max_total, seed=seed)
