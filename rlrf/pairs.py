"""Preference pairs: a better and a worse response to one prompt, refinements included.

Better means a higher reward (`rlrf.reward`). Equal rewards or equal texts never make a pair; a
chosen response was ended by the model, not cut off; no response is used twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from harness.core.schema import Record, digest
from rlrf.config import Pairing
from rlrf.reward import Reward, Rewarded
from rlrf.training_examples import ExamplesReport, Skipped, collect, comparable, median, similarity

Origin = Literal["explored", "refined"]
_Text = tuple[Rewarded, Reward]


class Pair(Record):
    """A preference pair: `chosen` is a better response to `prompt` than `rejected`."""

    task: str
    item: str
    index: int
    prompt: str = Field(description="prompt as the policy model saw it during exploration")
    chosen: str
    rejected: str
    gap: float = Field(gt=0, description="difference of reward")
    similarity: float = Field(description="share of words in common")
    chosen_origin: Origin
    rejected_origin: Origin
    rejected_cut: bool = Field(
        description="the length limit cut `rejected` off, so its end is not trained on"
    )

    @property
    def texts(self) -> tuple[str, ...]:
        return self.chosen, self.rejected


def make_pairs(
    responses: Sequence[Rewarded], config: Pairing, seed: int
) -> tuple[list[Pair], ExamplesReport]:
    """Make preference pairs of explored and refined `responses`, by task and item.

    The largest gaps of a prompt come first; `seed` decides between equal gaps, and which pairs
    stay if there are more than `config.max_total`.
    """

    def of_prompt(found: list[Rewarded]) -> list[Pair] | Skipped:
        return _pairs_of_item(found, config, seed)

    pairs, report = collect(responses, of_prompt, kind="pairs", most=config.max_total, seed=seed)
    return pairs, report.model_copy(
        update={
            "chosen_refined": sum(pair.chosen_origin == "refined" for pair in pairs),
            "rejected_refined": sum(pair.rejected_origin == "refined" for pair in pairs),
            "median_similarity": median(pair.similarity for pair in pairs),
        }
    )


def _pairs_of_item(
    responses: Sequence[Rewarded], config: Pairing, seed: int
) -> list[Pair] | Skipped:
    """Return the pairs of one prompt, or why there are none."""
    texts = comparable(responses)
    if isinstance(texts, str):
        return texts
    ordered = [
        (gap, better, worse)
        for better in texts
        for worse in texts
        if (gap := better[1].over(worse[1])) > 0
    ]
    if not ordered:
        return "equal rewards"
    wide = [entry for entry in ordered if entry[0] >= config.threshold]
    if not wide:
        return "below threshold"
    usable = [
        entry
        for entry in wide
        if entry[1][0].sample.finish_reason != "length" and entry[1][1].value >= config.min_chosen
    ]
    if not usable:
        return "none choosable"

    def widest(entry: tuple[float, _Text, _Text]) -> tuple[float, float, str]:
        _, (high, better), (low, worse) = entry
        texts = [high.sample.item, high.sample.response, low.sample.response]
        return worse.value - better.value, worse.grade - better.grade, digest([seed, *texts])

    # The prompt is that of exploration: a refinement is a response to the question, not to the
    # conversation with its draft.
    prompt = next(one.sample.prompt for one in responses if one.draft is None)
    used: set[str] = set()
    pairs: list[Pair] = []
    for gap, (high, _), (low, _) in sorted(usable, key=widest):
        if len(pairs) == config.per_prompt:
            break
        pair = _pair(prompt, gap, high, low)
        if pair.similarity <= config.max_similarity and not used.intersection(pair.texts):
            used.update(pair.texts)
            pairs.append(pair)
    return pairs or "too similar"


def _pair(prompt: str, gap: float, high: Rewarded, low: Rewarded) -> Pair:
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


def _origin(one: Rewarded) -> Origin:
    return "explored" if one.draft is None else "refined"
