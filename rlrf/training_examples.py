"""Training examples of an iteration: collect them, check them for leaks, report their origin."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal, Protocol, TypeVar

from pydantic import Field

from harness.core.schema import Item, Record, digest, mean
from harness.core.text import plural
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


REMEDIES: Mapping[Skipped, str] = {  # for causes whose remedy is the same in every run
    "unscored": "feedback/records.jsonl says why there is no score or feedback",
    "below threshold": "lower pairs.threshold",
    "too similar": "raise pairs.max_similarity",
    "no rewrite": "the replies of the rewriting model show why",
}
MAX_NAMED_ITEMS = 3
LONGER = "raise explore.max_tokens, so that responses are not cut off"


def remedy(cause: Skipped, report: ExamplesReport, explore: Explore, pairs: Pairing) -> str:
    """Name the setting to change so that prompts skipped for `cause` give examples.

    Only settings that can help are named: none that is already 0, no more samples of a greedy
    model, and the length limit if it cut off most responses.
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
    """Where the training examples of an iteration came from, and why some prompts gave none."""

    kind: Kind
    prompts: int
    sampled: int = Field(description="responses that the policy model wrote, refinements included")
    lessons: int = Field(description="number of training examples")
    trained: int = Field(description="responses in them: what training reads per epoch")
    by_task: dict[str, int]
    chosen_refined: int = Field(
        default=0, description="examples whose better response is a refinement"
    )
    rejected_refined: int = 0
    skipped: dict[Skipped, int] = Field(description="prompts without an example, by cause")
    unused: dict[str, int] = Field(
        default={},
        exclude_if=lambda unused: not unused,
        description="responses without an example, by cause, if examples need more than a reward",
    )
    median_similarity: float | None = None
    mean_reward: dict[str, float] = Field(
        description="task -> mean reward of explored responses, in the unit of its source"
    )
    cut: int = Field(
        default=0,
        exclude_if=lambda cut: cut == 0,
        description="sampled responses that the length limit cut off",
    )
    mean_tokens: dict[str, float] = Field(
        description="task -> mean length of explored responses in tokens"
    )
    advice: str = Field(
        default="",
        exclude_if=lambda advice: not advice,
        description="what to change if there are no examples",
    )
    refinements: int = 0
    refinements_better: int = Field(
        default=0, description="refinements with a higher reward than their draft"
    )
    refinements_worse: int = 0
    refinements_equal: int = Field(
        default=0, description="refinements that repeat their draft word for word"
    )

    def sentence(self) -> str:
        """Summarise the report in one line."""
        causes = ", ".join(f"{cause} {count}" for cause, count in sorted(self.skipped.items()))
        said = [f"{self.lessons} {self.kind} from {self.prompts} {plural('prompt', self.prompts)}"]
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
        """Say what to change so that more prompts give examples, the most common cause first."""
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
    """Collect the examples that `of_prompt` makes of the responses to each prompt.

    Args:
        of_prompt: returns examples, or why a prompt is skipped.
        most: number of examples to keep at most; `seed` decides which.
    """
    examples: list[ExampleT] = []
    skipped: Counter[Skipped] = Counter()
    by_item: dict[str, list[Rewarded]] = defaultdict(list)
    for one in responses:
        by_item[one.sample.item].append(one)
    for made in map(of_prompt, by_item.values()):
        if isinstance(made, str):
            skipped[made] += 1
        else:
            examples += made
    if most is not None and len(examples) > most:
        order = sorted(
            range(len(examples)),
            key=lambda i: digest([seed, examples[i].item, *examples[i].texts]),
        )
        examples = [examples[i] for i in sorted(order[:most])]
    gains = [gain for of_item in by_item.values() for gain in _gains(of_item)]
    explored = [one for one in responses if one.draft is None]
    return examples, ExamplesReport(
        kind=kind,
        prompts=len(by_item),
        sampled=len(responses),
        lessons=len(examples),
        trained=sum(len(example.texts) for example in examples),
        by_task=dict(Counter(example.task for example in examples)),
        skipped=dict(skipped),
        mean_reward=means_by_task((one.sample.task, _raw_reward(one)) for one in explored),
        cut=sum(one.sample.finish_reason == "length" for one in responses),
        mean_tokens=means_by_task(
            (one.sample.task, one.sample.completion_tokens) for one in explored
        ),
        refinements=len(responses) - len(explored),
        refinements_better=sum(gain > 0 for gain in gains),
        refinements_worse=sum(gain < 0 for gain in gains),
        refinements_equal=sum(map(_repeats, by_item.values())),
    )


def comparable(responses: Iterable[Rewarded]) -> list[tuple[Rewarded, Reward]] | Skipped:
    """Return the rewarded responses to a prompt, each text once, if there are at least two."""
    texts = [(one, one.reward) for one in distinct(responses) if one.reward is not None]
    if not texts:
        return "unscored"
    return texts if len(texts) > 1 else "one response"


def distinct(responses: Iterable[Rewarded]) -> list[Rewarded]:
    """Return the rewarded responses, each text once."""
    texts: dict[str, Rewarded] = {}
    for one in responses:
        if one.reward is not None:
            texts.setdefault(one.sample.response, one)
    return list(texts.values())


def similarity(left: str, right: str) -> float:
    """Share of words in common, counted with repeats, relative to the longer text.

    Training on nearly equal pairs lowers the likelihood of both (likelihood displacement).
    """
    a, b = Counter(left.split()), Counter(right.split())
    return (a & b).total() / max(a.total(), b.total(), 1)


def median(values: Iterable[float]) -> float | None:
    """The middle one, None of nothing."""
    found = list(values)
    return statistics.median(found) if found else None


def _raw_reward(one: Rewarded) -> float | None:
    """Return the reward as its source gave it."""
    return one.raw if one.raw is not None or one.reward is None else one.reward.value


def means_by_task(values: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    """Average the known values of each task."""
    known: Mapping[str, list[float]] = defaultdict(list)
    for task, value in values:
        if value is not None:
            known[task].append(float(value))
    return {task: mean(of_task) for task, of_task in known.items()}


def _gains(responses: Iterable[Rewarded]) -> list[float]:
    """Return how much better each rewarded refinement is than its rewarded draft."""
    rewards = {one.sample.repeat: one.reward for one in responses}
    both = [
        (rewards[one.sample.repeat], rewards.get(one.draft))
        for one in responses
        if one.draft is not None
    ]
    return [after.over(before) for after, before in both if after and before]


def _repeats(responses: Iterable[Rewarded]) -> int:
    """Count refinements that repeat the draft they rewrite."""
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
    # An item may be held out by several texts.
    names = list(dict.fromkeys(f"{item.task} {item.split} {item.index}" for item in items))
    named = ", ".join(names[:MAX_NAMED_ITEMS])
    more = ", ..." if len(names) > MAX_NAMED_ITEMS else ""
    return f"training texts repeat {len(names)} of the held-out items: {named}{more}"
