"""Records and tables of the results of self-evolved reward learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field

from harness.core.schema import MetricResult, Record, mean
from harness.render.numbers import percent
from harness.render.table import table
from harness.stats.intervals import summarize
from rlrf.models.reward.measure import Measured

Status = Literal[1, 2]


class SelfLabels(Record):
    """Labels that a model gave to pairs whose true labels are hidden from it."""

    pairs: int
    share: float = Field(description="of the unlabelled pairs")
    accuracy: MetricResult = Field(description="share that equals the hidden labels")


class Loop(Record):
    """A reward model of one loop, and the labels it was trained on besides the seed's."""

    number: int
    status: Status | None = Field(description="of the previous model, which gave the new labels")
    added: SelfLabels | None = Field(description="new in this loop; None in loop 0")
    labels: SelfLabels | None = Field(description="all so far; None in loop 0")
    held_out: Measured


class Rival(Record):
    """A reward model to compare with, and the labels it was trained on besides the seed's."""

    labels: SelfLabels | None = None
    held_out: Measured


class Evolution(Record):
    """Self-evolved reward learning with one seed, and the models to compare it with."""

    seed: int
    seed_fraction: float
    thresholds: str = Field(description="their name in the configuration")
    labelled: int
    unlabelled: int
    loops: list[Loop]
    stopped: str = Field(description="why it ended")
    plain: Rival = Field(description="trained once on loop 0's own order of all unlabelled pairs")
    all_labels: Rival = Field(description="trained on all labels: the bound")


class Row(Record):
    """A kind of model, over all seeds that have one."""

    seed_fraction: float
    thresholds: str
    model: str
    seeds: int
    accuracy: MetricResult = Field(description="over seeds; of a single seed, over its pairs")
    gain: MetricResult | None = Field(description="over loop 0, by seed; None for loop 0 itself")
    label_share: float | None = Field(description="of the unlabelled pairs, by a model")
    label_accuracy: MetricResult | None
    calibration_error: float
    calibration_floor: float
    by_domain: dict[str, MetricResult]


class SelfEvolutionResult(Record):
    """`OUT/result.json` of `rlrf reward-model self-evolve`."""

    base: str = Field(description="digest of the base model")
    pairs: int = Field(description="pairs that training draws from")
    held_out: int
    rows: list[Row]
    evolutions: list[Evolution]
    seconds: float = Field(description="time that training and scoring took")


def rows(evolutions: Sequence[Evolution]) -> list[Row]:
    """Summarise every kind of model over seeds, by seed fraction and thresholds."""
    summaries = []
    for fraction, name in dict.fromkeys((e.seed_fraction, e.thresholds) for e in evolutions):
        same = [e for e in evolutions if (e.seed_fraction, e.thresholds) == (fraction, name)]
        most = max(len(e.loops) for e in same)
        kinds: dict[str, list[tuple[Evolution, Loop | Rival]]] = {
            f"loop {k}": [(e, e.loops[k]) for e in same if k < len(e.loops)] for k in range(most)
        }
        kinds["last loop"] = [(e, e.loops[-1]) for e in same]
        kinds["plain pseudo-labels"] = [(e, e.plain) for e in same]
        kinds["all labels"] = [(e, e.all_labels) for e in same]
        summaries += [_row(fraction, name, kind, models) for kind, models in kinds.items()]
    return summaries


def _row(
    fraction: float, name: str, kind: str, models: Sequence[tuple[Evolution, Loop | Rival]]
) -> Row:
    measured = [model.held_out for _, model in models]
    before = [evolution.loops[0].held_out for evolution, _ in models]
    labels = [model.labels for _, model in models if model.labels]
    gains = [_mean(m.accuracy) - _mean(b.accuracy) for m, b in zip(measured, before, strict=True)]
    return Row(
        seed_fraction=fraction,
        thresholds=name,
        model=kind,
        seeds=len(models),
        accuracy=_over_seeds(measured, lambda m: m.accuracy),
        gain=None if measured == before else summarize(gains),
        label_share=mean([one.share for one in labels]) if labels else None,
        label_accuracy=_over_seeds(labels, lambda one: one.accuracy) if labels else None,
        calibration_error=mean([m.calibration.error for m in measured]),
        calibration_floor=mean([m.calibration.floor for m in measured]),
        by_domain={
            domain: _over_seeds(measured, lambda m, domain=domain: m.by_domain[domain])
            for domain in measured[0].by_domain
            if all(domain in m.by_domain for m in measured)
        },
    )


def _over_seeds(
    values: Sequence[Measured] | Sequence[SelfLabels], of: Callable[..., MetricResult]
) -> MetricResult:
    """Return the one seed's result, or mean and Student's t interval over seeds, in [0, 1]."""
    results = [of(value) for value in values]
    if len(results) == 1:
        return results[0]
    return summarize([_mean(one) for one in results], limits=(0.0, 1.0))


def _mean(result: MetricResult) -> float:
    assert result.mean is not None  # noqa: S101 (an accuracy of at least one pair)
    return result.mean


def markdown(result: SelfEvolutionResult) -> str:
    """Write the tables: models by loop, and their accuracy by domain."""
    seeds = len({e.seed for e in result.evolutions})
    over = f"mean [95 % interval] over {seeds} seeds" if seeds > 1 else "one seed [95 % interval]"
    parts = [
        f"Accuracy on {result.held_out:,} held-out pairs, {over}; trained from "
        f"{result.pairs:,} pairs, of which the first column has its labels shown",
        table(_models(result.rows)),
    ]
    if domains := sorted({domain for row in result.rows for domain in row.by_domain}):
        parts += ["The same by domain", table(_domains(result.rows, domains))]
    stopped = [
        f"- seed {e.seed}, {e.seed_fraction:.0%} shown, {e.thresholds}: {e.stopped}"
        for e in result.evolutions
    ]
    return "\n\n".join([*parts, "Why each ended", "\n".join(stopped)])


def _models(summaries: Sequence[Row]) -> list[list[str]]:
    head = ["labels shown", "thresholds", "model", "seeds", "accuracy", "gain over loop 0"]
    head += ["labelled itself", "of these right", "calibration error (by chance)"]
    return [
        head,
        *(
            [
                f"{row.seed_fraction:.0%}",
                row.thresholds,
                row.model,
                str(row.seeds),
                percent(row.accuracy),
                percent(row.gain, sign="+"),
                "-" if row.label_share is None else f"{row.label_share:.0%}",
                percent(row.label_accuracy),
                f"{row.calibration_error:.1%} ({row.calibration_floor:.1%})",
            ]
            for row in summaries
        ),
    ]


def _domains(summaries: Sequence[Row], domains: Sequence[str]) -> list[list[str]]:
    return [
        ["labels shown", "thresholds", "model", *domains],
        *(
            [
                f"{row.seed_fraction:.0%}",
                row.thresholds,
                row.model,
                *(percent(row.by_domain.get(domain)) for domain in domains),
            ]
            for row in summaries
        ),
    ]
