"""Rejection sampling: supervised fine-tuning on the policy model's best responses.

The reward model decides what is best if the run has one (H. Dong et al., arXiv 2304.06767), else
the benchmark's score, which for mathematics keeps correct answers (Z. Yuan et al., arXiv
2308.01825).
"""

from __future__ import annotations

from collections.abc import Sequence

from rlrf import stages
from rlrf.config import Pairing
from rlrf.context import IterationContext
from rlrf.objectives.sft import Example, sft
from rlrf.reward import Reward, Rewarded
from rlrf.stages import Attempt
from rlrf.training_examples import ExamplesReport, Skipped, collect, comparable


def improve(iteration: IterationContext) -> Attempt:
    """Explore, keep the best responses, and train on them."""
    explored = stages.explore(iteration)
    responses = stages.reward(iteration, explored)
    examples, report = best_responses(responses, iteration.config.pairs, iteration.seed("pairs"))
    return stages.train(iteration, examples, report, sft)


def best_responses(
    responses: Sequence[Rewarded], config: Pairing, seed: int
) -> tuple[list[Example], ExamplesReport]:
    """Keep the `config.per_prompt` best responses per prompt that reach `config.min_chosen`.

    Prompts whose responses are all equally good are skipped; responses that the length limit cut
    off are left out.
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
