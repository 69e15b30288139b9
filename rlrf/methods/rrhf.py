"""RRHF: rank responses to align language models with human feedback (arXiv 2304.05302)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rlrf import stages
from rlrf.config import Pairing
from rlrf.context import IterationContext
from rlrf.objectives.rrhf import Ranking, rrhf
from rlrf.reward import Rewarded
from rlrf.stages import Attempt
from rlrf.training_examples import ExamplesReport, Skipped, collect, comparable


def improve(iteration: IterationContext) -> Attempt:
    """Explore, rank the responses to each prompt, and learn the order and the best response."""
    explored = stages.explore(iteration)
    responses = stages.reward(iteration, explored)
    rankings, report = make_rankings(responses, iteration.config.pairs, iteration.seed("pairs"))
    return stages.train(iteration, rankings, report, rrhf)


def make_rankings(
    responses: Sequence[Rewarded], config: Pairing, seed: int
) -> tuple[list[Ranking], ExamplesReport]:
    """Rank the distinct responses to each prompt, best first.

    Of many responses only the `config.per_prompt` best and as many of the worst are kept, as many
    as `config.per_prompt` pairs would hold. Prompts are skipped if best and worst differ by less
    than `config.threshold`, or if the best is cut off or below `config.min_chosen`.
    """

    def of_prompt(found: list[Rewarded]) -> list[Ranking] | Skipped:
        rewarded = comparable(found)
        if isinstance(rewarded, str):
            return rewarded
        texts = [(one.sample, reward) for one, reward in rewarded]
        texts.sort(key=lambda entry: (-entry[1].value, -entry[1].grade, entry[0].repeat))
        (first, best), (_, worst) = texts[0], texts[-1]
        if best.over(worst) == 0:
            return "equal rewards"
        if best.over(worst) < config.threshold:
            return "below threshold"
        if first.finish_reason == "length" or best.value < config.min_chosen:
            return "none choosable"
        if len(texts) > 2 * config.per_prompt:
            texts = texts[: config.per_prompt] + texts[-config.per_prompt :]
        ranks = [0]
        for (_, better), (_, worse) in pairwise(texts):
            ranks.append(ranks[-1] + (better.over(worse) > 0))
        return [
            Ranking(
                task=first.task,
                item=first.item,
                index=first.index,
                prompt=first.prompt,
                responses=[sample.response for sample, _ in texts],
                ranks=ranks,
                cut=[sample.finish_reason == "length" for sample, _ in texts],
            )
        ]

    return collect(responses, of_prompt, kind="rankings", most=config.max_total, seed=seed)
