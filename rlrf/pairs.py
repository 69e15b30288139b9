"""Preference pairs: a better against a worse response of one prompt, originals and refinements.

Better means a higher reward (`rlrf.feedback.Reward`): the task's primary metric scaled to [0, 1],
and where that is equal, the grade of the feedback. Equal rewards never make a pair, nor do equal
texts; a chosen response was ended by the model, not cut off; no response is used twice.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field

from harness.schema import Record, digest, mean
from rlrf.config import Pairing
from rlrf.feedback import Judged, Reward, reward
from tasks.plugin import Task

Origin = Literal["explored", "refined"]
Skipped = Literal["unscored", "one response", "equal rewards", "below threshold", "none choosable"]

Valued = tuple[Reward, Judged]


class Pair(Record):
    """What DPO learns from: `chosen` is better than `rejected` as an answer to `prompt`."""

    task: str
    item: str
    index: int
    prompt: str = Field(description="as the policy saw it when it explored")
    chosen: str
    rejected: str
    gap: float = Field(gt=0, description="difference of reward")
    similarity: float = Field(description="share of words in common, see `similarity`")
    chosen_origin: Origin
    rejected_origin: Origin
    rejected_cut: bool = Field(description="the length limit ended it, so no end is learned")


class PairReport(Record):
    """Where the pairs of an iteration came from, and why some prompts gave none."""

    prompts: int
    pairs: int
    by_task: dict[str, int]
    chosen_refined: int = Field(description="pairs whose chosen response is a refinement")
    rejected_refined: int
    skipped: dict[Skipped, int] = Field(description="prompts without a pair, by cause")
    median_similarity: float | None
    mean_reward: dict[str, float] = Field(description="task -> mean value of explored responses")
    refinements: int
    refinements_better: int = Field(description="rewarded more than the draft they rewrite")
    refinements_worse: int

    def sentence(self) -> str:
        """What a person wants to know, in one line."""
        causes = ", ".join(f"{cause} {count}" for cause, count in sorted(self.skipped.items()))
        return (
            f"{self.pairs} pairs from {self.prompts} prompts, "
            f"{self.chosen_refined} chosen from refinements; "
            f"{self.refinements_better} of {self.refinements} refinements are better than their "
            f"draft, {self.refinements_worse} worse; prompts without a pair: {causes or 'none'}"
        )


def make_pairs(
    judged: Sequence[Judged],
    tasks: Mapping[str, Task],
    config: Pairing,
    seed: int,
) -> tuple[list[Pair], PairReport]:
    """Pairs of the explored and refined responses in `judged`, by task and item.

    The largest gaps of a prompt come first; `seed` decides between equal ones, and which pairs
    stay when there are more than `config.max_total`.
    """
    pairs: list[Pair] = []
    skipped: Counter[Skipped] = Counter()
    by_item: dict[str, list[Judged]] = defaultdict(list)
    for one in judged:
        by_item[one.sample.item].append(one)
    for responses in by_item.values():
        found = _pairs_of_item(responses, tasks[responses[0].sample.task], config, seed)
        if isinstance(found, str):
            skipped[found] += 1
        else:
            pairs += found
    if config.max_total is not None and len(pairs) > config.max_total:
        order = sorted(range(len(pairs)), key=lambda i: digest([seed, pairs[i].model_dump()]))
        pairs = [pairs[i] for i in sorted(order[: config.max_total])]
    return pairs, _report(pairs, by_item, skipped, tasks)


def similarity(left: str, right: str) -> float:
    """Words in common over the words of the longer text, counted with repeats, in [0, 1].

    Pairs that are nearly equal lower the likelihood of both (likelihood displacement).
    """
    a, b = Counter(left.split()), Counter(right.split())
    return (a & b).total() / max(a.total(), b.total(), 1)


def _pairs_of_item(
    responses: Sequence[Judged], task: Task, config: Pairing, seed: int
) -> list[Pair] | Skipped:
    """The pairs of one prompt, or why there is none."""
    distinct: dict[str, Valued] = {}
    for one in responses:
        worth = reward(task.primary, one.score, one.feedback)
        if worth is not None:
            distinct.setdefault(one.sample.response, (worth, one))
    if not distinct:
        return "unscored"
    if len(distinct) == 1:
        return "one response"
    ordered = [
        (high[0].over(low[0]), high, low)
        for high in distinct.values()
        for low in distinct.values()
        if high[0].over(low[0]) > 0
    ]
    if not ordered:
        return "equal rewards"
    wide = [entry for entry in ordered if entry[0] >= config.threshold]
    if not wide:
        return "below threshold"
    usable = [
        entry
        for entry in wide
        if entry[1][1].sample.finish_reason != "length" and entry[1][0].value >= config.min_chosen
    ]
    if not usable:
        return "none choosable"

    def widest(entry: tuple[float, Valued, Valued]) -> tuple[float, float, str]:
        _, (better, high), (worse, low) = entry
        texts = [high.sample.item, high.sample.response, low.sample.response]
        return worse.value - better.value, worse.grade - better.grade, digest([seed, *texts])

    # Prompts are the explored ones': a refinement answers the question, not the conversation.
    prompt = next(one.sample.prompt for one in responses if one.draft is None)
    used: set[str] = set()
    pairs: list[Pair] = []
    for gap, (_, high), (_, low) in sorted(usable, key=widest):
        texts = {high.sample.response, low.sample.response}
        if len(pairs) < config.per_prompt and not texts & used:
            used |= texts
            pairs.append(_pair(prompt, gap, high, low))
    return pairs


def _pair(prompt: str, gap: float, high: Judged, low: Judged) -> Pair:
    return Pair(
        task=high.sample.task,
        item=high.sample.item,
        index=high.sample.index,
        prompt=prompt,
        chosen=high.sample.response,
        rejected=low.sample.response,
        gap=gap,
        similarity=similarity(high.sample.response, low.sample.response),
        chosen_origin=_origin(high),
        rejected_origin=_origin(low),
        rejected_cut=low.sample.finish_reason == "length",
    )


def _origin(one: Judged) -> Origin:
    return "explored" if one.draft is None else "refined"


def _report(
    pairs: Sequence[Pair],
    by_item: Mapping[str, Sequence[Judged]],
    skipped: Mapping[Skipped, int],
    tasks: Mapping[str, Task],
) -> PairReport:
    gains = [gain for responses in by_item.values() for gain in _gains(responses, tasks)]
    values: dict[str, list[float]] = defaultdict(list)
    for responses in by_item.values():
        for one in responses:
            worth = reward(tasks[one.sample.task].primary, one.score, one.feedback)
            if one.draft is None and worth is not None:
                values[one.sample.task].append(worth.value)
    return PairReport(
        prompts=len(by_item),
        pairs=len(pairs),
        by_task=dict(Counter(pair.task for pair in pairs)),
        chosen_refined=sum(pair.chosen_origin == "refined" for pair in pairs),
        rejected_refined=sum(pair.rejected_origin == "refined" for pair in pairs),
        skipped=dict(skipped),
        median_similarity=statistics.median(p.similarity for p in pairs) if pairs else None,
        mean_reward={name: mean(found) for name, found in values.items()},
        refinements=sum(one.draft is not None for r in by_item.values() for one in r),
        refinements_better=sum(gain > 0 for gain in gains),
        refinements_worse=sum(gain < 0 for gain in gains),
    )


def _gains(responses: Iterable[Judged], tasks: Mapping[str, Task]) -> list[float]:
    """By how much each scored refinement is better than its scored draft."""
    worths = {
        one.sample.repeat: reward(tasks[one.sample.task].primary, one.score, one.feedback)
        for one in responses
    }
    both = [
        (worths[one.sample.repeat], worths[one.draft]) for one in responses if one.draft is not None
    ]
    return [after.over(before) for after, before in both if after and before]
