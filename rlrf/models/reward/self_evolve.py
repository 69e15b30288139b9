"""Self-evolved reward learning: a reward model learns from labels that it is sure of.

    loop 0       train on the few labels there are
    loop 1, ...  score the pairs without labels; keep those that `detect` finds sure, in the model's
                 own order; train anew on the seed's labels and all pairs kept so far

A response's probability is p = sigmoid(reward). A model that tells good responses from bad ones
puts one response of a pair above a half and the other below (status 1). A model that cannot may
still see a wide difference (status 2). With too few pairs of either kind the loop ends. C. Huang
et al., Self-Evolved Reward Learning for LLMs, arXiv 2411.00418.

The result is compared with training on all of the model's own labels (plain pseudo-labels) and on
all true labels.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from harness.core import yaml
from harness.core.errors import UserError
from harness.core.files import parse, read_json, write_json, write_text
from harness.core.schema import Record, digest
from harness.engines.model_folder import check, find, model_digest
from harness.evals.scoring import code_version
from rlrf.code_digests import source
from rlrf.config import Device
from rlrf.models import reward, trained_model
from rlrf.models.reward.measure import Measured, accuracy, measure
from rlrf.models.reward.model import RewardModel, RewardTraining, score_pairs, train
from rlrf.models.reward.preferences import Preference, preferences_digest, read_preferences
from rlrf.models.reward.self_evolve_report import (
    Evolution,
    Loop,
    Rival,
    SelfEvolutionResult,
    SelfLabels,
    Status,
    markdown,
    rows,
)
from rlrf.models.trained_model import split_by_prompt
from rlrf.objectives import base as common
from rlrf.reward import sigmoid
from rlrf.run import Run, holds_run, open_run

Flags = npt.NDArray[np.bool_]

REWARDS = "rewards.json"
Fraction = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[\w-]{1,40}$")]


class Thresholds(Record):
    """When a model is sure of a pair, and how many such pairs a loop needs.

    The defaults are the published ones; `minimum` suits HH-RLHF, with about 160,000 pairs.
    """

    high: float = Field(default=0.55, ge=0.5, lt=1, description="status 1: one p is above")
    low: float = Field(default=0.45, gt=0, le=0.5, description="status 1: the other p is below")
    difference: float = Field(default=0.3, ge=0, lt=1, description="status 2: p differ by more")
    minimum: int = Field(default=600, ge=1, description="pairs that a status needs")


class SelfEvolution(Record):
    """Configure self-evolution runs over all seeds, seed fractions and thresholds."""

    model: str = Field(description="folder or hub id of the base model")
    revision: str | None = Field(default=None, description="of the hub model")
    pairs: str = Field(description="file of preferences; all labels are known, few are shown")
    held_out: str | None = Field(
        default=None, description="file of preferences to measure on; default: a part of `pairs`"
    )
    held_out_share: float = Field(default=0.2, gt=0, lt=1, description="share of `pairs`")
    train: RewardTraining = RewardTraining()
    loops: int = Field(default=3, ge=1, description="most retrainings after loop 0")
    seed_fractions: list[Fraction] = Field(
        default=[0.15], min_length=1, description="shares of the pairs whose labels are shown"
    )
    thresholds: dict[Name, Thresholds] = Field(
        default={"published": Thresholds()}, min_length=1, description="name -> thresholds"
    )
    seeds: list[int] = Field(default=[0], min_length=1, description="of splits and training")
    engine: Device = Device()

    @field_validator("seeds", "seed_fractions")
    @classmethod
    def _each_once(cls, values: list[float]) -> list[float]:
        if len(set(values)) < len(values):
            raise ValueError("a value occurs twice")
        return values

    @property
    def identity(self) -> str:
        """Digest of the settings that all models of a run share.

        Paths are left out, and so is the sweep: with more seeds, fractions or thresholds a run
        keeps its models."""
        places = {"model", "revision", "pairs", "held_out"}
        sweep = {"loops", "seed_fractions", "thresholds", "seeds"}
        return digest(self.model_dump(mode="json", exclude=places | sweep))


def load(path: Path) -> SelfEvolution:
    """Read a configuration file; relative paths are looked up next to it first.

    Raises:
        UserError: the file is missing or not YAML, or a key or value is wrong.
    """
    config = yaml.load(path, SelfEvolution)
    places = {
        name: str((path.parent / place).resolve())
        for name in ("model", "pairs", "held_out")
        if (place := getattr(config, name)) is not None and (path.parent / place).exists()
    }
    return config.model_copy(update=places)


@dataclass(frozen=True)
class Learned:
    """What a model has learned: its status (None: too little), and the pairs that it may label."""

    status: Status | None
    kept: Flags


def detect(first: npt.ArrayLike, second: npt.ArrayLike, thresholds: Thresholds) -> Learned:
    """Detect the status of a model from the rewards of the two responses of each pair.

    `kept` is true for the pairs whose order by the model becomes a label; all false without a
    status.
    """
    p, q = sigmoid(first), sigmoid(second)
    above, below = np.maximum(p, q), np.minimum(p, q)
    sure = (above > thresholds.high) & (below < thresholds.low)
    if sure.sum() >= thresholds.minimum:
        return Learned(1, sure)
    wide = (above - below) > thresholds.difference
    if wide.sum() >= thresholds.minimum:
        return Learned(2, wide)
    return Learned(None, np.zeros(len(p), dtype=np.bool_))


class PairRewards(Record):
    """A model's rewards of the responses of the held-out and of the unlabelled pairs."""

    held_out_chosen: list[float]
    held_out_rejected: list[float]
    pool_chosen: list[float]
    pool_rejected: list[float]


@dataclass(frozen=True)
class Setup:
    """What the models of a run have in common."""

    config: SelfEvolution
    run: Run
    base: Path
    held_out: list[Preference]

    def fit(
        self, place: str, learned: Sequence[Preference], pool: Sequence[Preference], seed: int
    ) -> PairRewards:
        """Train a model on `learned` and score with it, unless stage `place` of the run exists."""

        def make(folder: Path) -> None:
            train(
                learned,
                self.base,
                self.config.train,
                device=self.config.engine,
                seed=seed,
                out=folder / "model",
            )
            model = RewardModel(folder / "model", device=self.config.engine)
            chosen, rejected = score_pairs(model, [*self.held_out, *pool])
            del model
            gc.collect()
            n = len(self.held_out)
            write_json(
                folder / REWARDS,
                PairRewards(
                    held_out_chosen=chosen[:n].tolist(),
                    held_out_rejected=rejected[:n].tolist(),
                    pool_chosen=chosen[n:].tolist(),
                    pool_rejected=rejected[n:].tolist(),
                ),
            )

        read = [preferences_digest(learned), preferences_digest(pool), seed]
        code = source("the code of reward models", reward, trained_model, common)
        stage = self.run.stage(place, read, make, code)
        path = stage.folder / REWARDS
        return parse(PairRewards, read_json(path), str(path))

    def measure(self, rewards: PairRewards) -> Measured:
        """Measure a model on the held-out pairs."""
        margins = np.subtract(rewards.held_out_chosen, rewards.held_out_rejected)
        return measure(margins, [one.domain for one in self.held_out])


def self_evolve(config: SelfEvolution, out: Path, *, fresh: bool = False) -> SelfEvolutionResult:
    """Run every seed, seed fraction and threshold of `config` in the folder `out`.

    An existing run is resumed, or deleted first if `fresh`. Held-out and training pairs share no
    prompt. Writes `result.json` and `result.md`.

    Raises:
        UserError: the model, the pairs or the folder cannot be used.
    """
    holds_run(out)
    base = find(config.model, config.revision)
    check(base)
    pairs = read_preferences(Path(config.pairs))
    if config.held_out is None:
        held_out, pairs = split_by_prompt(pairs, config.held_out_share, seed=0)
    else:
        held_out = read_preferences(Path(config.held_out))
        asked = {one.prompt for one in held_out}
        pairs = [one for one in pairs if one.prompt not in asked]
    if not pairs or not held_out:
        raise UserError(
            "No pairs are left to learn from after removing the held-out prompts. Give more pairs, "
            "or another held_out."
        )
    common = {
        "config": config.identity,
        "model": model_digest(base),
        "pairs": preferences_digest(pairs),
        "held_out": preferences_digest(held_out),
        "code": code_version(),
    }
    with open_run(out, common, fresh=fresh) as run:
        setup = Setup(config, run, base, held_out)
        evolutions = [
            evolve(setup, pairs, fraction, name, seed)
            for fraction in config.seed_fractions
            for name in config.thresholds
            for seed in config.seeds
        ]
        result = SelfEvolutionResult(
            base=common["model"],
            pairs=len(pairs),
            held_out=len(held_out),
            rows=rows(evolutions),
            evolutions=evolutions,
            seconds=run.seconds("."),
        )
        write_json(out / "result.json", result)
        write_text(out / "result.md", markdown(result) + "\n")
    return result


def evolve(
    setup: Setup, pairs: Sequence[Preference], fraction: float, name: str, seed: int
) -> Evolution:
    """Run one seed: the loops with thresholds `name`, plain pseudo-labels, and all labels."""
    labelled, pool = split_by_prompt(pairs, fraction, seed)
    if not pool:
        raise UserError(
            f"With {fraction:.0%} of the labels shown, none of the {len(pairs)} pairs is left "
            "unlabelled. Give more pairs, or a smaller seed fraction."
        )
    at = f"seed_{seed}/{fraction:g}"
    rewards = first = setup.fit(f"{at}_loop_0", labelled, pool, seed)
    known = SelfLabelled(pool, seed)
    measured = setup.measure(rewards)
    loops = [Loop(number=0, status=None, added=None, labels=None, held_out=measured)]
    stopped = f"all {setup.config.loops} loops are done"
    for number in range(1, setup.config.loops + 1):
        learned = known.add(rewards, setup.config.thresholds[name])
        if learned.status is None:
            minimum = setup.config.thresholds[name].minimum
            stopped = f"loop {number} found fewer than {minimum} pairs to be sure of"
            break
        rewards = setup.fit(f"{at}_{name}_loop_{number}", [*labelled, *known.labels()], pool, seed)
        loops.append(
            Loop(
                number=number,
                status=learned.status,
                added=known.summary(learned.kept),
                labels=known.summary(known.kept),
                held_out=setup.measure(rewards),
            )
        )
    plain = SelfLabelled(pool, seed)
    plain.take(first, np.ones(len(pool), dtype=np.bool_))
    plain_rewards = setup.fit(f"{at}_plain", [*labelled, *plain.labels()], pool, seed)
    bound = setup.fit(f"seed_{seed}/all_labels", pairs, [], seed)
    return Evolution(
        seed=seed,
        seed_fraction=fraction,
        thresholds=name,
        labelled=len(labelled),
        unlabelled=len(pool),
        loops=loops,
        stopped=stopped,
        plain=Rival(labels=plain.summary(plain.kept), held_out=setup.measure(plain_rewards)),
        all_labels=Rival(held_out=setup.measure(bound)),
    )


class SelfLabelled:
    """Labels that models gave to the pairs of a pool; they accumulate and never change.

    The true labels are only used to count correct ones: which pairs are kept does not depend on the
    order of a pair, and if a model sees no difference, a coin (`seed`) decides.
    """

    def __init__(self, pool: Sequence[Preference], seed: int) -> None:
        self.pool = pool
        self.kept: Flags = np.zeros(len(pool), dtype=np.bool_)
        self.right: Flags = np.zeros(len(pool), dtype=np.bool_)
        self._coin: Flags = np.random.default_rng(seed).random(len(pool)) < 0.5

    def add(self, rewards: PairRewards, thresholds: Thresholds) -> Learned:
        """Label the still unlabelled pairs that the model is sure of."""
        free = np.flatnonzero(~self.kept)
        chosen, rejected = np.array(rewards.pool_chosen), np.array(rewards.pool_rejected)
        learned = detect(chosen[free], rejected[free], thresholds)
        fresh = np.zeros(len(self.pool), dtype=np.bool_)
        fresh[free] = learned.kept
        self.take(rewards, fresh)
        return Learned(learned.status, fresh)

    def take(self, rewards: PairRewards, fresh: Flags) -> None:
        """Label the pairs in `fresh` in the model's own order."""
        margins = np.subtract(rewards.pool_chosen, rewards.pool_rejected)
        right = (margins > 0) | ((margins == 0) & self._coin)
        self.right = np.where(fresh, right, self.right)
        self.kept = self.kept | fresh

    def labels(self) -> list[Preference]:
        """Return the labelled pairs, in the order of the pool."""
        return [
            one
            if right
            else one.model_copy(update={"chosen": one.rejected, "rejected": one.chosen})
            for one, kept, right in zip(self.pool, self.kept, self.right, strict=True)
            if kept
        ]

    def summary(self, which: Flags) -> SelfLabels:
        """Count the labels in `which`, and how many of them are correct."""
        return SelfLabels(
            pairs=int(which.sum()),
            share=float(which.mean()),
            accuracy=accuracy(np.where(self.right[which], 1.0, -1.0)),
        )
