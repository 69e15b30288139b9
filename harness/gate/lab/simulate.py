"""Compare promotion policies in a simulated training loop, before you train.

In each iteration a candidate differs from the incumbent by a true gain drawn from Normal(mean,
sd); a policy sees only how the two, and the frozen anchor, answer the gate's items. A candidate
flips answers independently: right to wrong and back with the chances that give the drawn gain at
the set discordance. So items are exchangeable within what anchor and incumbent made of them, and
the four counts (anchor right or wrong, incumbent right or wrong) are all there is to simulate:
their changes are binomial, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from harness.core.errors import UserError
from harness.core.schema import MAX_THRESHOLD, MetricResult, Policy, Record, Rule
from harness.core.scored import ScoredEvaluation
from harness.gate.evidence import gather
from harness.stats.noninferiority import mcnemar, tango_statistic

THRESHOLDS = (0.0, 1.0, 1.645, 2.0, 3.0)  # standard errors of gain that a promotion takes

Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]


class Settings(Record):
    """The loop to simulate; shares, not percentages."""

    items: int = Field(default=1319, gt=1, description="items of the gate")
    iterations: int = Field(default=20, gt=0)
    effect_mean: float = Field(default=-0.003, gt=-1, lt=1, description="of true gains a candidate")
    effect_sd: float = Field(default=0.01, ge=0, lt=1)
    discordance: float = Field(
        default=0.1, gt=0, lt=1, description="share of items on which two models differ"
    )
    accuracy: float = Field(default=0.5, gt=0, lt=1, description="of the anchor, M0")
    margin: float = Field(default=0.02, gt=0, lt=1)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    slices: int = Field(default=4, gt=0, description="into which 'rotating' divides the items")
    loops: int = Field(default=10_000, gt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _slices_hold_items(self) -> Settings:
        if self.items < 2 * self.slices:
            raise ValueError(f"{self.slices} slices need at least two items each")
        return self


class PolicyOutcome(Record):
    """Outcome of a promotion policy over `loops`; gains are of the last incumbent over M0."""

    policy: str
    promotions: MetricResult
    harmful: MetricResult = Field(description="promotions of a candidate that was truly worse")
    true_gain: MetricResult
    seen_gain: MetricResult = Field(description="sum of the gains seen when promoting")
    regressed: MetricResult = Field(description="share of loops that end below -margin")


class ThresholdOutcome(Record):
    """Outcome of a promotion threshold other than one standard error, over `loops`."""

    threshold: float = Field(description="gain that a promotion takes, in standard errors")
    items: Literal["same", "fresh"] = Field(description="of the gate, from iteration to iteration")
    outcome: PolicyOutcome
    noise: MetricResult = Field(
        description="share of candidates promoted in loops where no candidate truly differs"
    )


@dataclass(frozen=True)
class Seen:
    """What a policy is shown of a candidate, shape (loops,): items gained and lost, of n."""

    gained: Counts
    lost: Counts
    anchor_gained: Counts
    anchor_lost: Counts
    n: int

    @property
    def gain(self) -> Numbers:
        return (self.gained - self.lost) / self.n


@dataclass(frozen=True)
class Contender:
    """A policy of promotion, and on which items it looks."""

    name: str
    promotes: Callable[[Seen, Settings], Flags]
    rotating: bool = False  # one of `slices` parts of the items in each iteration
    fresh: bool = False  # new items in each iteration: as many times more are needed


def _not_below(loss: float) -> Callable[[Seen, Settings], Flags]:
    return lambda seen, _: np.asarray(seen.gain >= -loss - 1e-12)


def _greedy(seen: Seen, _: Settings) -> Flags:
    return seen.gained > seen.lost


def _significant(seen: Seen, settings: Settings) -> Flags:
    p = mcnemar(seen.gained, seen.lost)
    return np.asarray((seen.gained > seen.lost) & (p <= settings.alpha))


def _bonferroni(seen: Seen, settings: Settings) -> Flags:
    alpha = settings.alpha / settings.iterations
    return _significant(seen, settings.model_copy(update={"alpha": alpha}))


def _passes_incumbent(seen: Seen, settings: Settings) -> Flags:
    z = NormalDist().inv_cdf(1 - settings.alpha)
    return tango_statistic(seen.gained, seen.lost, seen.n, -settings.margin) > z


def _passes_both(seen: Seen, settings: Settings) -> Flags:
    anchor = Seen(seen.anchor_gained, seen.anchor_lost, seen.gained, seen.lost, seen.n)
    return _passes_incumbent(seen, settings) & _passes_incumbent(anchor, settings)


def _climbs(seen: Seen, _: Settings, threshold: float = 1.0) -> Flags:
    spread = (seen.gained + seen.lost - seen.n * seen.gain**2) / (seen.n - 1)
    stderr = np.sqrt(np.maximum(spread, 0) / seen.n)
    # One flipped answer is one standard error; where all gained, `promote` asks for a gain.
    least = stderr * (threshold + 1e-9)
    return np.where(stderr > 0, seen.gain > least, seen.gain > 0)


def _gate(seen: Seen, settings: Settings, threshold: float = 1.0) -> Flags:
    return _passes_both(seen, settings) & _climbs(seen, settings, threshold)


CONTENDERS = (
    Contender("greedy: any gain", _greedy),
    Contender("no drop", _not_below(0.0)),
    Contender("at most 1 point lower", _not_below(0.01)),
    Contender("at most 2 points lower", _not_below(0.02)),
    Contender("McNemar", _significant),
    Contender("McNemar, Bonferroni", _bonferroni),
    Contender("non-inferior to incumbent", _passes_incumbent),
    Contender("non-inferior to incumbent and anchor", _passes_both),
    Contender("Ladder", _climbs),
    Contender("gate, same items", _gate),
    Contender("gate, rotating slices", _gate, rotating=True),
    Contender("gate, fresh items", _gate, fresh=True),
)


def simulate(
    settings: Settings, contenders: Sequence[Contender] = CONTENDERS
) -> list[PolicyOutcome]:
    """Run every policy through `settings.loops` loops of `settings.iterations` candidates.

    All meet candidates with the same true gains. 'gate' is what `harness.gate` decides and
    promotes by: non-inferior to incumbent and anchor, and up the Ladder.
    """
    rng = np.random.default_rng(settings.seed)
    shape = (settings.iterations, settings.loops)
    effects = rng.normal(settings.effect_mean, settings.effect_sd, shape)
    return [
        _outcome(one, settings, effects, np.random.default_rng([settings.seed, k]))
        for k, one in enumerate(contenders)
    ]


def compare_thresholds(
    settings: Settings, thresholds: Sequence[float] = THRESHOLDS
) -> list[ThresholdOutcome]:
    """Run the gate with each promotion threshold, on the same and on fresh items.

    All meet candidates with the same true gains, and then candidates that are only noise.

    Raises:
        UserError: a threshold that no policy may have.
    """
    if bad := [one for one in thresholds if not 0 <= one <= MAX_THRESHOLD]:
        raise UserError(
            f"A promotion threshold lies between 0 and {MAX_THRESHOLD:g} standard errors, and this "
            f"is {bad[0]:g}."
        )
    quiet = settings.model_copy(update={"effect_mean": 0.0, "effect_sd": 0.0})
    found = []
    items: tuple[Literal["same", "fresh"], ...] = ("same", "fresh")
    for threshold in thresholds:
        for which in items:
            contender = Contender(
                f"gate, {which} items, threshold {threshold:g}",
                partial(_gate, threshold=threshold),
                fresh=which == "fresh",
            )
            outcome, noise = (_run(contender, one) for one in (settings, quiet))
            share = noise.promotions.model_copy(
                update={
                    name: (getattr(noise.promotions, name) or 0.0) / settings.iterations
                    for name in ("mean", "stderr", "low", "high")
                }
            )
            found.append(
                ThresholdOutcome(threshold=threshold, items=which, outcome=outcome, noise=share)
            )
    return found


def _run(contender: Contender, settings: Settings) -> PolicyOutcome:
    rng = np.random.default_rng(settings.seed)
    shape = (settings.iterations, settings.loops)
    effects = rng.normal(settings.effect_mean, settings.effect_sd, shape)
    return _outcome(contender, settings, effects, np.random.default_rng([settings.seed, 0]))


def _outcome(
    contender: Contender, settings: Settings, effects: Numbers, rng: np.random.Generator
) -> PolicyOutcome:
    loops, slices = settings.loops, settings.slices if contender.rotating else 1
    n = settings.items // slices
    # Cells: anchor wrong or right, incumbent wrong or right. At first the two are one model.
    truth = np.zeros((loops, 2, 2))
    truth[:, 0, 0], truth[:, 1, 1] = 1 - settings.accuracy, settings.accuracy
    cells = _draw(rng, n, truth, slices)
    promotions, harmful, seen_gain = np.zeros(loops), np.zeros(loops), np.zeros(loops)
    for turn, effect in enumerate(effects):
        if contender.fresh and turn:
            cells = _draw(rng, n, truth, slices)
        chances = _flip_chances(truth, effect, settings.discordance)
        flipped = rng.binomial(cells, chances[:, None, None, :])
        here = turn % slices
        candidate = _move(cells, flipped)
        seen = Seen(
            gained=flipped[:, here, :, 0].sum(axis=1),
            lost=flipped[:, here, :, 1].sum(axis=1),
            anchor_gained=candidate[:, here, 0, 1],
            anchor_lost=candidate[:, here, 1, 0],
            n=n,
        )
        promoted = contender.promotes(seen, settings)
        next_truth = _move(truth, truth * chances[:, None, :])
        worse = next_truth[..., 1].sum(axis=1) < truth[..., 1].sum(axis=1)
        cells = np.where(promoted[:, None, None, None], candidate, cells)
        truth = np.where(promoted[:, None, None], next_truth, truth)
        promotions += promoted
        harmful += promoted & worse
        seen_gain += np.where(promoted, seen.gain, 0.0)
    true_gain = truth[..., 1].sum(axis=1) - settings.accuracy
    return PolicyOutcome(
        policy=contender.name,
        promotions=_summary(promotions),
        harmful=_summary(harmful),
        true_gain=_summary(true_gain),
        seen_gain=_summary(seen_gain),
        regressed=_summary((true_gain < -settings.margin).astype(np.float64)),
    )


def _draw(rng: np.random.Generator, n: int, truth: Numbers, slices: int) -> Counts:
    """Draw how anchor and incumbent answer n new items a slice: (loops, slices, 2, 2)."""
    chances = np.maximum(truth.reshape(len(truth), 1, 4), 0)
    drawn = rng.multinomial(n, chances / chances.sum(axis=-1, keepdims=True), (len(truth), slices))
    return np.asarray(drawn).reshape(len(truth), slices, 2, 2)


def _flip_chances(truth: Numbers, effect: Numbers, discordance: float) -> Numbers:
    """P(flip | incumbent wrong), P(flip | incumbent right): shape (loops, 2).

    The shares gained and lost are (discordance +- effect) / 2, as far as there are items to gain
    and lose.
    """
    right = truth[..., 1].sum(axis=1)
    gained = np.clip((discordance + effect) / 2, 0, 1 - right)
    lost = np.clip((discordance - effect) / 2, 0, right)
    return np.stack([gained / np.maximum(1 - right, 1e-12), lost / np.maximum(right, 1e-12)], -1)


def _move(cells: Any, flipped: Any) -> Any:
    """Cells (..., 2, 2) after `flipped` of each changed the incumbent's answer."""
    return cells - flipped + flipped[..., ::-1]


def _summary(values: Numbers) -> MetricResult:
    """Mean over loops with its 95 % interval; the many loops make it normal."""
    center, stderr = float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5
    half = NormalDist().inv_cdf(0.975) * stderr
    return MetricResult(
        mean=center, stderr=stderr, low=center - half, high=center + half, n=len(values)
    )


def like(
    baseline: ScoredEvaluation, candidate: ScoredEvaluation, settings: Settings, metric: str = ""
) -> Settings:
    """Take items, discordance and accuracy of `settings` from two evaluations of one task.

    `metric` is yes/no; by default it is the task's primary one.

    Raises:
        UserError: the evaluations cannot be compared, the metric is not yes/no, or the two never
            differ.
    """
    evaluation = baseline.evaluation
    primary = next((m.name for m in evaluation.definitions.values() if m.primary), "")
    rule = Rule(task=evaluation.task, metric=metric or primary, margin=settings.margin)
    before, after = ({evaluation.task: one} for one in (baseline, candidate))
    (evidence,) = gather(Policy(rules=[rule]), before, after, {})
    old, new = evidence.baseline, evidence.candidate
    if not np.isin([old, new], [0, 1]).all() or len(old) < 2:
        raise UserError(
            f"{rule.task} {rule.metric} is not a yes/no answer per item, which the simulation "
            "flips. Name a yes/no metric, or give --discordance and --items yourself."
        )
    discordance, accuracy = float((old != new).mean()), float(old.mean())
    if not (0 < discordance < 1 and 0 < accuracy < 1):
        raise UserError(
            f"The two evaluations differ on {discordance:.0%} of {len(old)} items and the "
            f"baseline has {accuracy:.0%} right: there is nothing to simulate from that. Give two "
            "models that differ, or --discordance and --items yourself."
        )
    found = {"items": len(old), "discordance": discordance, "accuracy": accuracy}
    return Settings.model_validate(settings.model_dump() | found)
