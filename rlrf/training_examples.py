"""What an iteration learns from, whatever the method calls it, and the report on that."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal, Protocol, TypeVar

from pydantic import Field

from harness.core.schema import Item, Record, digest, mean
from harness.gate.contamination import overlap
from rlrf.config import Explore, Pairing
from rlrf.reward import Reward, Rewarded

Kind = Literal["pairs", "responses", "rankings", "rewrites"]
Skipped = Literal[
    "unscored",
    "one response",
    "equal rewards",
    "below threshold",
    "none choosable",
    "too similar",
    "no rewrite",
]


REMEDIES: Mapping[Skipped, str] = {  # of the causes that have the same one in every run
    "unscored": "see in feedback/records.jsonl why there is no score or nothing said",
    "below threshold": "lower pairs.threshold",
    "too similar": "raise pairs.max_similarity",
    "no rewrite": "see in the replies of the model that rewrites why there is none",
}
MAX_NAMED_ITEMS = 3
LONGER = "raise explore.max_tokens, so that responses are not cut off"


def remedy(cause: Skipped, report: ExamplesReport, explore: Explore, pairs: Pairing) -> str:
    """The setting to change so that prompts without a lesson for `cause` give one.

    Only what can help: nothing is lowered that is 0, nothing is drawn more often that is always
    the same, and where the length limit cut off most responses, that is said.
    """
    mostly_cut = 2 * report.cut > report.sampled
    if cause in REMEDIES:
        return REMEDIES[cause]
    if cause in ("one response", "equal rewards"):
        purpose = "differ" if cause == "one response" else "are not all equally good"
        if explore.n == 1:
            advice = f"raise explore.n above 1, so that responses {purpose}"
        elif explore.temperature == 0:
            advice = f"raise explore.temperature above 0, so that responses {purpose}"
        else:
            advice = f"raise explore.n or explore.temperature, so that responses {purpose}"
        return f"{advice}; or {LONGER}" if mostly_cut else advice
    if pairs.min_chosen == 0:  # nothing else keeps a better response from being chosen
        return LONGER
    lower = f"lower pairs.min_chosen, which is {pairs.min_chosen:g}"
    return f"{lower}; or {LONGER}" if report.cut else lower


class TrainingExample(Protocol):
    """A training example: texts of the policy model or a teacher about one item."""

    @property
    def task(self) -> str: ...
    @property
    def item(self) -> str: ...
    @property
    def texts(self) -> tuple[str, ...]: ...


ExampleT = TypeVar("ExampleT", bound=TrainingExample)


class ExamplesReport(Record):
    """Where the lessons of an iteration came from, and why some prompts gave none."""

    kind: Kind
    prompts: int
    sampled: int = Field(description="responses that the policy wrote for them, refinements too")
    lessons: int
    trained: int = Field(description="responses in the lessons: what training reads in an epoch")
    by_task: dict[str, int]
    chosen_refined: int = Field(default=0, description="whose better response is a refinement")
    rejected_refined: int = 0
    skipped: dict[Skipped, int] = Field(description="prompts without a lesson, by cause")
    unused: dict[str, int] = Field(
        default={},
        exclude_if=lambda unused: not unused,
        description="responses that no lesson is made of, by cause, where lessons need more",
    )
    median_similarity: float | None = None
    mean_reward: dict[str, float] = Field(
        description="task -> mean over explored responses, in the unit of what rewards them"
    )
    cut: int = Field(
        default=0,
        exclude_if=lambda cut: cut == 0,
        description="of those sampled, responses that the length limit cut off",
    )
    mean_tokens: dict[str, float] = Field(description="task -> mean length of explored responses")
    advice: str = Field(
        default="",
        exclude_if=lambda advice: not advice,
        description="what to change where there are no lessons",
    )
    refinements: int = 0
    refinements_better: int = Field(
        default=0, description="rewarded more than the draft they rewrite"
    )
    refinements_worse: int = 0
    refinements_equal: int = Field(
        default=0, description="rewrites that repeat their draft word for word"
    )

    def sentence(self) -> str:
        """What a person wants to know, in one line."""
        causes = ", ".join(f"{cause} {count}" for cause, count in sorted(self.skipped.items()))
        said = [f"{self.lessons} {self.kind} from {self.prompts} prompts"]
        if self.refinements:
            said[0] += f", {self.chosen_refined} chosen from refinements"
            said.append(
                f"{self.refinements_better} of {self.refinements} refinements are better than "
                f"their draft, {self.refinements_worse} worse"
                + (f", {self.refinements_equal} repeat it" if self.refinements_equal else "")
            )
        said.append(f"prompts without one: {causes or 'none'}")
        if self.unused:
            unused = ", ".join(f"{cause} {n}" for cause, n in sorted(self.unused.items()))
            said.append(f"responses without one: {unused}")
        return "; ".join(said)

    def remedy(self, explore: Explore, pairs: Pairing) -> str:
        """What to change so that more prompts give a lesson, the commonest cause first."""
        causes = sorted(self.skipped.items(), key=lambda entry: (-entry[1], entry[0]))
        return "; ".join(
            f"{cause} {count}: {remedy(cause, self, explore, pairs)}" for cause, count in causes
        )


def collect(
    responses: Sequence[Rewarded],
    of_prompt: Callable[[list[Rewarded]], list[ExampleT] | Skipped],
    *,
    kind: Kind,
    most: int | None,
    seed: int,
) -> tuple[list[ExampleT], ExamplesReport]:
    """The lessons that `of_prompt` finds in the responses to each prompt, or why there are none.

    Of more than `most`, `seed` decides which stay.
    """
    lessons: list[ExampleT] = []
    skipped: Counter[Skipped] = Counter()
    by_item: dict[str, list[Rewarded]] = defaultdict(list)
    for one in responses:
        by_item[one.sample.item].append(one)
    for found in map(of_prompt, by_item.values()):
        if isinstance(found, str):
            skipped[found] += 1
        else:
            lessons += found
    if most is not None and len(lessons) > most:
        order = sorted(
            range(len(lessons)), key=lambda i: digest([seed, lessons[i].item, *lessons[i].texts])
        )
        lessons = [lessons[i] for i in sorted(order[:most])]
    gains = [gain for found in by_item.values() for gain in _gains(found)]
    explored = [one for one in responses if one.draft is None]
    return lessons, ExamplesReport(
        kind=kind,
        prompts=len(by_item),
        sampled=len(responses),
        lessons=len(lessons),
        trained=sum(len(lesson.texts) for lesson in lessons),
        by_task=dict(Counter(lesson.task for lesson in lessons)),
        skipped=dict(skipped),
        mean_reward=means_by_task((one.sample.task, _shown(one)) for one in explored),
        cut=sum(one.sample.finish_reason == "length" for one in responses),
        mean_tokens=means_by_task(
            (one.sample.task, one.sample.completion_tokens) for one in explored
        ),
        refinements=len(responses) - len(explored),
        refinements_better=sum(gain > 0 for gain in gains),
        refinements_worse=sum(gain < 0 for gain in gains),
        refinements_equal=sum(_repeats(found) for found in by_item.values()),
    )


def comparable(responses: Iterable[Rewarded]) -> list[tuple[Rewarded, Reward]] | Skipped:
    """The rewarded responses to a prompt with their rewards, each text once; two at least."""
    texts = [(one, one.reward) for one in distinct(responses) if one.reward is not None]
    if not texts:
        return "unscored"
    return texts if len(texts) > 1 else "one response"


def distinct(responses: Iterable[Rewarded]) -> list[Rewarded]:
    """The rewarded responses, each text once."""
    texts: dict[str, Rewarded] = {}
    for one in responses:
        if one.reward is not None:
            texts.setdefault(one.sample.response, one)
    return list(texts.values())


def similarity(left: str, right: str) -> float:
    """Words in common over the words of the longer text, counted with repeats, in [0, 1].

    Pairs that are nearly equal lower the likelihood of both (likelihood displacement).
    """
    a, b = Counter(left.split()), Counter(right.split())
    return (a & b).total() / max(a.total(), b.total(), 1)


def median(values: Iterable[float]) -> float | None:
    """The middle one, None of nothing."""
    found = list(values)
    return statistics.median(found) if found else None


def _shown(one: Rewarded) -> float | None:
    """A reward as its source gave it."""
    return one.raw if one.raw is not None or one.reward is None else one.reward.value


def means_by_task(values: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    """Task -> mean of its values that are known."""
    found: Mapping[str, list[float]] = defaultdict(list)
    for task, value in values:
        if value is not None:
            found[task].append(float(value))
    return {task: mean(of_task) for task, of_task in found.items()}


def _gains(responses: Iterable[Rewarded]) -> list[float]:
    """By how much each rewarded refinement is better than its rewarded draft."""
    rewards = {one.sample.repeat: one.reward for one in responses}
    both = [
        (rewards[one.sample.repeat], rewards.get(one.draft))
        for one in responses
        if one.draft is not None
    ]
    return [after.over(before) for after, before in both if after and before]


def _repeats(responses: Iterable[Rewarded]) -> int:
    """How many refinements are the draft that they rewrite."""
    texts = {one.sample.repeat: one.sample.response for one in responses}
    return sum(
        texts.get(one.draft) == one.sample.response for one in responses if one.draft is not None
    )


def find_leak(texts: Collection[str], held_out: Sequence[Item], words: int) -> str:
    """Name the held-out items that training texts repeat; "" if there are none.

    A text repeats an item if runs of `words` words that both share cover half of the item.
    """
    overlaps = overlap(sorted(texts), [item.prompt for item in held_out], n=words)
    if not overlaps:
        return ""
    items = [held_out[one.item] for one in overlaps]
    named = ", ".join(f"{item.task} {item.split} {item.index}" for item in items[:MAX_NAMED_ITEMS])
    more = ", ..." if len(items) > MAX_NAMED_ITEMS else ""
    return f"training texts repeat {len(items)} of the held-out items: {named}{more}"
