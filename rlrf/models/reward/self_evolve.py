"""Self-evolved reward learning: a reward model that labels, of what it has no label for, what it is
sure of, and learns from that.

    loop 0       learn from the few labels there are
    loop 1, ...  score the pairs that have none; keep those that `self_labels.detect` is sure of,
                 in the model's own order; learn anew from the seed's labels and all kept until now

C. Huang et al., arXiv 2411.00418. What a model learns from beside the seed's labels is compared
with taking all its labels (plain pseudo-labels) and with the true ones (all labels).
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError
from harness.core.files import parse, read_json, write_json, write_text
from harness.core.schema import Record
from harness.engines.model_folder import check, find, model_digest
from harness.evals.scoring import code_version
from rlrf.code_digests import source
from rlrf.models import reward
from rlrf.models.reward import preferences as reading
from rlrf.models.reward.config import SelfEvolution
from rlrf.models.reward.measure import Measured, accuracy, measure
from rlrf.models.reward.model import RewardModel
from rlrf.models.reward.preferences import Preference, preferences_digest
from rlrf.models.reward.result import (
    Evolution,
    Loop,
    Rival,
    SelfEvolutionResult,
    SelfLabels,
    markdown,
    rows,
)
from rlrf.models.reward.self_labels import Learned, Thresholds, detect
from rlrf.models.reward.training import train
from rlrf.objectives import base as common
from rlrf.run import Run, holds_run, open_run

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]

REWARDS = "rewards.json"


class Rewards(Record):
    """What a model gives to the responses of the held-out and of the unlabelled pairs."""

    held_out_chosen: list[float]
    held_out_rejected: list[float]
    pool_chosen: list[float]
    pool_rejected: list[float]


@dataclass(frozen=True)
class Bench:
    """What every model of a run is made from and measured on."""

    config: SelfEvolution
    run: Run
    base: Path
    held_out: list[Preference]

    def fit(
        self, place: str, learned: Sequence[Preference], pool: Sequence[Preference], seed: int
    ) -> Rewards:
        """Train a model on `learned` and let it score, unless `place` in the run has it."""

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
            scored = [*self.held_out, *pool]
            prompts = [one.prompt for one in scored] * 2
            texts = [one.chosen for one in scored] + [one.rejected for one in scored]
            chosen, rejected = np.split(model.score(prompts, texts), 2)
            del model
            gc.collect()
            n = len(self.held_out)
            write_json(
                folder / REWARDS,
                Rewards(
                    held_out_chosen=chosen[:n].tolist(),
                    held_out_rejected=rejected[:n].tolist(),
                    pool_chosen=chosen[n:].tolist(),
                    pool_rejected=rejected[n:].tolist(),
                ),
            )

        read = [preferences_digest(learned), preferences_digest(pool), seed]
        code = source("the code of reward models", reward, common)
        stage = self.run.stage(place, read, make, code)
        path = stage.folder / REWARDS
        return parse(Rewards, read_json(path), str(path))

    def measure(self, rewards: Rewards) -> Measured:
        """On the held-out pairs."""
        margins = np.subtract(rewards.held_out_chosen, rewards.held_out_rejected)
        return measure(margins, [one.domain for one in self.held_out])


def self_evolve(config: SelfEvolution, out: Path, *, fresh: bool = False) -> SelfEvolutionResult:
    """Run every seed, seed fraction and threshold of `config`; `out` is the run's folder.

    A run that exists is resumed, `fresh` deletes it first. Held-out and training pairs share no
    prompt. Writes `result.json` and `result.md`.

    Raises:
        UserError: the model, the pairs or the folder cannot be used.
    """
    holds_run(out)
    base = find(config.model, config.revision)
    check(base)
    pairs = reading.read_preferences(Path(config.pairs))
    if config.held_out is None:
        held_out, pairs = reading.split(pairs, config.held_out_share, seed=0)
    else:
        held_out = reading.read_preferences(Path(config.held_out))
        asked = {one.prompt for one in held_out}
        pairs = [one for one in pairs if one.prompt not in asked]
    if not pairs or not held_out:
        raise UserError(
            "Nothing is left to learn from once the held-out prompts are taken away; give more "
            "pairs, or another held_out."
        )
    common = {
        "config": config.identity,
        "model": model_digest(base),
        "pairs": preferences_digest(pairs),
        "held_out": preferences_digest(held_out),
        "code": code_version(),
    }
    with open_run(out, common, fresh=fresh) as run:
        bench = Bench(config, run, base, held_out)
        evolutions = [
            evolve(bench, pairs, fraction, name, seed)
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
    bench: Bench, pairs: Sequence[Preference], fraction: float, name: str, seed: int
) -> Evolution:
    """One seed: the loops under the thresholds `name`, the plain baseline and the bound."""
    labelled, pool = reading.split(pairs, fraction, seed)
    if not pool:
        raise UserError(
            f"With {fraction:.0%} of the labels shown, none of the {len(pairs)} pairs is left "
            "without: give more pairs, or a smaller seed fraction."
        )
    at = f"seed_{seed}/{fraction:g}"
    rewards = first = bench.fit(f"{at}_loop_0", labelled, pool, seed)
    known = SelfLabelled(pool, seed)
    measured = bench.measure(rewards)
    loops = [Loop(number=0, status=None, added=None, labels=None, held_out=measured)]
    stopped = f"all {bench.config.loops} loops are done"
    for number in range(1, bench.config.loops + 1):
        learned = known.add(rewards, bench.config.thresholds[name])
        if learned.status is None:
            stopped = (
                f"loop {number} found fewer than {bench.config.thresholds[name].minimum} pairs "
                "to be sure of"
            )
            break
        rewards = bench.fit(f"{at}_{name}_loop_{number}", [*labelled, *known.labels()], pool, seed)
        loops.append(
            Loop(
                number=number,
                status=learned.status,
                added=known.summary(learned.kept),
                labels=known.summary(known.kept),
                held_out=bench.measure(rewards),
            )
        )
    plain = SelfLabelled(pool, seed)
    plain.take(first, np.ones(len(pool), dtype=np.bool_))
    plain_rewards = bench.fit(f"{at}_plain", [*labelled, *plain.labels()], pool, seed)
    bound = bench.fit(f"seed_{seed}/all_labels", pairs, [], seed)
    return Evolution(
        seed=seed,
        seed_fraction=fraction,
        thresholds=name,
        labelled=len(labelled),
        unlabelled=len(pool),
        loops=loops,
        stopped=stopped,
        plain=Rival(labels=plain.summary(plain.kept), held_out=bench.measure(plain_rewards)),
        all_labels=Rival(held_out=bench.measure(bound)),
    )


class SelfLabelled:
    """The labels that models gave to the pairs of a pool; they accumulate and never change.

    The hidden labels serve to count what is right and for nothing else: which pairs are kept does
    not depend on the order of a pair, and where a model sees no difference a coin (`seed`) decides.
    """

    def __init__(self, pool: Sequence[Preference], seed: int) -> None:
        self.pool = pool
        self.kept: Flags = np.zeros(len(pool), dtype=np.bool_)
        self.right: Flags = np.zeros(len(pool), dtype=np.bool_)
        self._coin: Flags = np.random.default_rng(seed).random(len(pool)) < 0.5

    def add(self, rewards: Rewards, thresholds: Thresholds) -> Learned:
        """Label the pairs, of those without a label yet, that the model is sure of."""
        free = np.flatnonzero(~self.kept)
        chosen, rejected = np.array(rewards.pool_chosen), np.array(rewards.pool_rejected)
        found = detect(chosen[free], rejected[free], thresholds)
        fresh = np.zeros(len(self.pool), dtype=np.bool_)
        fresh[free] = found.kept
        self.take(rewards, fresh)
        return Learned(found.status, fresh)

    def take(self, rewards: Rewards, fresh: Flags) -> None:
        """Label the pairs of `fresh` in the model's own order."""
        margins = np.subtract(rewards.pool_chosen, rewards.pool_rejected)
        right = (margins > 0) | ((margins == 0) & self._coin)
        self.right = np.where(fresh, right, self.right)
        self.kept = self.kept | fresh

    def labels(self) -> list[Preference]:
        """The labelled pairs, in the order of the pool."""
        return [
            one
            if right
            else one.model_copy(update={"chosen": one.rejected, "rejected": one.chosen})
            for one, kept, right in zip(self.pool, self.kept, self.right, strict=True)
            if kept
        ]

    def summary(self, which: Flags) -> SelfLabels:
        """How many there are in `which`, and how many of them are right."""
        return SelfLabels(
            pairs=int(which.sum()),
            share=float(which.mean()),
            accuracy=accuracy(np.where(self.right[which], 1.0, -1.0)),
        )
