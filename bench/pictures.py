"""Draw the pictures of docs/statistics.md and docs/results/statistics.md from new simulations.

.venv/bin/python bench/pictures.py --out docs/img
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from reuse import ladder
from scipy.special import stdtrit
from scipy.stats import binom

from harness.gate.lab.simulate import Settings, simulate
from harness.render.simulation import picture
from harness.render.style import BLUE, GREY, RED, TEXT, styled, svg
from harness.stats.noninferiority import tango_statistic
from harness.stats.sequential import log_evidence

Numbers = npt.NDArray[np.float64]

ALPHA, MARGIN, GSM8K = 0.05, 0.02, 1319
Z = NormalDist().inv_cdf(1 - ALPHA)


@contextmanager
def chart(file: Path, panels: int = 1, rows: int = 1) -> Iterator[Any]:
    """Axes in `rows` rows of `panels`, saved as SVG when done."""
    with styled():
        figure = Figure(figsize=(4.2 * panels if panels > 1 else 6, 3.1 * rows))
        axes = figure.subplots(rows, panels, squeeze=False).flatten()
        for axis in axes:
            axis.grid(True)
        yield axes
        file.write_bytes(svg(figure))


def flips(
    rng: np.random.Generator, n: int, discordance: float, gain: float, gates: int = 100_000
) -> npt.NDArray[np.int64]:
    """Items gained and lost, shape (2, gates)."""
    chances = [(discordance + gain) / 2, (discordance - gain) / 2, 1 - discordance]
    return np.asarray(rng.multinomial(n, chances, size=gates)).T[:2]


def same_model(file: Path) -> None:
    """What blocks two runs of one model."""
    discordance, sizes = 0.15, np.unique(np.geomspace(50, 5000, 60).astype(int))
    rng = np.random.default_rng(0)
    shares: dict[str, list[float]] = {"no drop": [], "1 point": [], "undecided": [], "fail": []}
    for n in sizes:
        b, c = flips(rng, int(n), discordance, 0.0)
        z = tango_statistic(b, c, n, -MARGIN)
        shares["no drop"].append(float((b < c).mean()))
        shares["1 point"].append(float(((b - c) / n < -0.01).mean()))
        shares["undecided"].append(float((np.abs(z) <= Z).mean()))
        shares["fail"].append(float((z < -Z).mean()))
    with chart(file) as (axis,):
        axis.plot(sizes, shares["no drop"], color=RED, label="'no drop' blocks")
        axis.plot(sizes, shares["1 point"], color=RED, ls="--", label="'at most 1 point' blocks")
        axis.plot(sizes, shares["undecided"], color=BLUE, ls=":", label="gate: inconclusive")
        axis.plot(sizes, shares["fail"], color=BLUE, label="gate: fail")
        axis.set(xscale="log", xlabel="items", ylabel="share of comparisons", ylim=(-0.02, 1))
        axis.set_title("One model against itself, which differs on 15 % of the items", loc="left")
        axis.legend()


def boundary(file: Path) -> None:
    """Chance to pass exactly at the margin: Tango's interval and Wald's, exactly."""
    sizes = np.unique(np.geomspace(20, 2000, 50).astype(int))
    with chart(file, 2) as axes:
        for axis, margin in zip(axes, (0.02, 0.05), strict=True):
            tango, wald = [], []
            for n in sizes:
                # Discordance = margin: every item that changes is lost.
                c = np.arange(n + 1)
                chance = binom.pmf(c, n, margin)
                tango.append(float(chance @ (tango_statistic(0, c, n, -margin) > Z)))
                share = c / n
                spread = np.sqrt(np.maximum(share - share**2, 0) / n)
                wald.append(float(chance @ (-share - Z * spread > -margin)))
            axis.plot(sizes, wald, color=RED, label="Wald")
            axis.plot(sizes, tango, color=BLUE, label="Tango")
            axis.axhline(ALPHA, color=GREY, ls="--", lw=1)
            axis.set(xscale="log", xlabel="items", ylim=(0, 0.75))
            axis.set_title(f"margin {100 * margin:g} points, only losses", loc="left")
        axes[0].set_ylabel("chance that a candidate\nworse by the margin passes")
        axes[0].legend()


def power(file: Path) -> None:
    """What a gate of a size sees."""
    rng, gains = np.random.default_rng(0), np.linspace(-0.06, 0.05, 45)
    with chart(file) as (axis,):
        for n, colour in ((200, GREY), (500, "#60a5fa"), (GSM8K, BLUE)):
            passed = []
            for gain in gains:
                b, c = flips(rng, n, 0.1, float(gain), 20_000)
                passed.append(float((tango_statistic(b, c, n, -MARGIN) > Z).mean()))
            axis.plot(100 * gains, passed, color=colour, label=f"{n:,} items")
        axis.axvline(-100 * MARGIN, color=RED, ls="--", lw=1)
        axis.axhline(ALPHA, color=GREY, ls="--", lw=1)
        axis.set(xlabel="true gain, percentage points", ylabel="chance to pass")
        axis.set_title("margin 2 points, discordance .1", loc="left")
        axis.legend()


def clusters(file: Path) -> None:
    """Type-I error where five items of a cluster go together."""
    rng, gates, size = np.random.default_rng(0), 20_000, 5
    counts = np.array([4, 5, 6, 8, 10, 15, 20, 30, 50])
    rates: dict[str, list[float]] = {"ignored": [], "z": [], "t": []}
    for count in counts:
        d = rng.normal(0, 1, (gates, count, 1)) + rng.normal(0, 0.7, (gates, count, size))
        mean = d.mean(axis=(1, 2))
        alone = d.reshape(gates, -1).std(axis=1, ddof=1) / math.sqrt(count * size)
        stderr = d.mean(axis=2).std(axis=1, ddof=1) / math.sqrt(count)
        rates["ignored"].append(float((mean > Z * alone).mean()))
        rates["z"].append(float((mean > Z * stderr).mean()))
        rates["t"].append(float((mean > stdtrit(count - 1, 1 - ALPHA) * stderr).mean()))
    with chart(file) as (axis,):
        axis.plot(counts, rates["ignored"], "o-", color=RED, label="clusters ignored")
        axis.plot(counts, rates["z"], "o--", color=RED, label="clustered, normal quantile")
        axis.plot(counts, rates["t"], "o-", color=BLUE, label="clustered, Student's t")
        axis.axhline(ALPHA, color=GREY, ls="--", lw=1)
        axis.set(
            xlabel="clusters of five items",
            ylabel="chance that a candidate\nworse by the margin passes",
        )
        axis.set_ylim(0, 0.25)
        axis.legend()


def sequential(file: Path) -> None:
    """Evidence item by item, and when it suffices."""
    rng, discordance, gates = np.random.default_rng(7), 0.1, 2000
    limit, shown = -math.log(ALPHA), np.arange(0, GSM8K, 3)
    with chart(file, 2) as axes:
        for gain, colour, name in ((0.02, BLUE, "+2"), (0.0, GREY, "0"), (-0.02, RED, "-2")):
            chances = [(discordance - gain) / 2, 1 - discordance, (discordance + gain) / 2]
            sampled = rng.choice([-1.0, 0.0, 1.0], p=chances, size=(gates, GSM8K))
            gained = round(GSM8K * chances[2])
            lost = gained - math.floor(GSM8K * gain)
            items = np.repeat([-1.0, 0.0, 1.0], [lost, GSM8K - lost - gained, gained])
            drawn = rng.permuted(np.tile(items, (gates, 1)), axis=1)
            log_e = log_evidence(sampled, -MARGIN)
            for k in range(3):
                label = "" if k else f"true gain {name}"
                axes[0].plot(shown, log_e[k][shown], color=colour, lw=0.9, label=label)
            for values, style in ((log_e, "-"), (log_evidence(drawn, -MARGIN, GSM8K), ":")):
                crossed = np.logical_or.accumulate(values >= limit, axis=1)
                axes[1].plot(shown, crossed.mean(axis=0)[shown], color=colour, ls=style)
        axes[0].axhline(limit, color=TEXT, ls="--", lw=1)
        axes[0].annotate("pass", (15, limit), (0, 3), textcoords="offset points")
        axes[0].set(xlabel="items seen", ylabel="log of the evidence", ylim=(-6, 6))
        axes[0].legend(fontsize=8, loc="lower right")
        axes[1].set(xlabel="items seen", ylabel="share that has passed", ylim=(-0.02, 1.02))
        axes[1].set_title("dotted: the 1,319 items are all there are", loc="left", fontsize=9)


def climbing(file: Path) -> None:
    """The attack by voting on a board that tells every score, and on the Ladder."""
    rng, n, most = np.random.default_rng(0), 1000, 500
    truth = rng.integers(0, 2, n)
    guesses = rng.integers(0, 2, (most, n))
    right = (guesses == truth).astype(float)
    tried = np.arange(10, most + 1, 10)

    def vote(kept: npt.NDArray[np.bool_]) -> float:
        return float(((guesses[: len(kept)][kept].mean(axis=0) > 0.5) == truth).mean())

    rungs = ladder(right)
    climbed = np.array([rung.climbed for rung in rungs])
    told = right.mean(axis=1) > 0.5
    with chart(file) as (axis,):
        axis.plot(tried, [vote(told[:k]) for k in tried], color=RED, label="every score is told")
        axis.plot(tried, [vote(climbed[:k]) for k in tried], color=BLUE, label="the Ladder")
        axis.axhline(0.5, color=GREY, ls="--", lw=1, label="true accuracy")
        axis.set(
            xlabel="coin flips submitted", ylabel="accuracy seen of their vote", ylim=(0.4, 0.7)
        )
        axis.set_title("1,000 items; the guesses that scored above .5 vote", loc="left")
        axis.legend()


def policies(file: Path) -> None:
    """Policies of promotion in closed loop."""
    file.write_bytes(picture(simulate(Settings())))


PICTURES: dict[str, Callable[[Path], None]] = {
    "same-model": same_model,
    "boundary": boundary,
    "power": power,
    "clusters": clusters,
    "sequential": sequential,
    "ladder": climbing,
    "policies": policies,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(PICTURES)}; default: all")
    told = parser.parse_args()
    told.out.mkdir(parents=True, exist_ok=True)
    for name in told.names or PICTURES:
        PICTURES[name](told.out / f"{name}.svg")
        print(told.out / f"{name}.svg", flush=True)


if __name__ == "__main__":
    main()
