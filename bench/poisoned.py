"""What the gate saves: ten iterations of RLRF, one of them poisoned, with and without it.

    python bench/poisoned.py --out runs/poisoned

In iteration 5 chosen and rejected change places, as after a sign error or an attack on the
feedback. Both runs are otherwise the same; without the gate every candidate takes over. Every
model is measured on the sealed split.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from harness.core.files import parse, read_json, write_bytes, write_text
from harness.render.style import BLUE, GREY, RED, styled, svg
from harness.render.table import table
from rlrf.config import Config
from rlrf.pairs import Pair
from rlrf.quickstart import seed_policy
from rlrf.result import RunResult
from rlrf.training_examples import ExamplesReport

POISONED, ITERATIONS = 5, 10
HEADLINE = ("mini_gsm8k accuracy", "mini_factscore precision", "mini_just_eval overall")
RUNS = {"gate": True, "no gate": False}


def config(enforce: bool) -> Config:
    """A small iteration of the quickstart's configuration, ten times."""
    rules = [
        {"task": "mini_gsm8k", "metric": "accuracy", "margin": 0.05},
        {"task": "mini_factscore", "metric": "precision", "margin": 0.05},
        {"task": "mini_just_eval", "metric": "overall", "margin": 0.15},
    ]
    settings: dict[str, Any] = {
        "model": str(seed_policy()),
        "iterations": ITERATIONS,
        "tasks": [
            {"name": "mini_gsm8k", "prompts": 48},
            {"name": "mini_factscore", "prompts": 32},
            {"name": "mini_just_eval", "prompts": 24},
        ],
        "explore": {"n": 6},
        "reflect": {"m": 2, "temperature": 0.7},
        "pairs": {"threshold": 0.1, "per_prompt": 2, "min_chosen": 0.6},
        "train": {"learning_rate": 5e-4, "batch_size": 8, "max_length": 400},
        "gate": {"slice": 100, "sealed": 200, "policy": {"rules": rules}, "enforce": enforce},
        "engine": {"device": "cpu"},
    }
    return Config.model_validate(settings)


def run(out: Path, name: str) -> None:
    """One of the two runs, in this process."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    import rlrf.methods.rlrf as method
    from rlrf.loop import train

    torch.set_num_threads(1)
    honest = method.make_pairs
    made = {"number": 0}

    def poisoned_pairs(*args: Any) -> tuple[list[Pair], ExamplesReport]:
        """A fake, to provoke the fault: in one iteration the worse response is the chosen one."""
        made["number"] += 1
        pairs, report = honest(*args)
        if made["number"] != POISONED:
            return pairs, report
        swapped = [
            pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen})
            for pair in pairs
            if not pair.rejected_cut
        ]
        return swapped, report

    method.make_pairs = poisoned_pairs
    train(config(RUNS[name]), out / name.replace(" ", "_"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/poisoned"))
    parser.add_argument("--picture", type=Path, help="SVG of the sealed scores")
    told = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=run, args=(told.out, name)) for name in RUNS]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise SystemExit("A run failed; the lines above say why.")
    results = {}
    for name in RUNS:
        path = told.out / name.replace(" ", "_") / "result.json"
        results[name] = parse(RunResult, read_json(path), str(path))
    text = "\n\n".join(f"{name}\n\n{iterations(result)}" for name, result in results.items())
    write_text(told.out / "table.md", text + "\n")
    print(text)
    if told.picture:
        write_bytes(told.picture, picture(results))


def in_place(result: RunResult) -> list[str]:
    """The incumbent after each iteration, from M0 on."""
    names = ["M0"]
    for iteration in result.iterations:
        names.append(
            iteration.candidate if iteration.outcome in ("promoted", "not enforced") else names[-1]
        )
    return names


def iterations(result: RunResult) -> str:
    """What the gate said of each candidate, and what the incumbent is worth after it."""
    rows = [["iteration", "candidate, at the gate", "outcome", "incumbent", *HEADLINE]]
    sealed = {model.name: model for model in result.sealed}
    for iteration, name in zip(result.iterations, in_place(result)[1:], strict=True):
        verdict = iteration.gate.vs_incumbent.verdict if iteration.gate else "-"
        number = f"{iteration.number}" + (", poisoned" if iteration.number == POISONED else "")
        means = [f"{sealed[name].metrics[metric].mean:.3f}" for metric in HEADLINE]
        rows.append([number, f"{iteration.candidate}: {verdict}", iteration.outcome, name, *means])
    return table(rows)


def picture(results: dict[str, RunResult]) -> bytes:
    """The incumbent's sealed score after each iteration, with its 95 % interval."""
    with styled():
        figure = Figure(figsize=(10, 3.1))
        panels: Sequence[Any] = figure.subplots(1, len(HEADLINE))
        for axis, metric in zip(panels, HEADLINE, strict=True):
            axis.grid(True)
            axis.axvspan(POISONED - 0.4, POISONED + 0.4, color=GREY, alpha=0.25, linewidth=0)
            for (name, result), color in zip(results.items(), (BLUE, RED), strict=True):
                sealed = {model.name: model.metrics[metric] for model in result.sealed}
                found = [sealed[one] for one in in_place(result)]
                turns = range(len(found))
                axis.plot(turns, [one.mean for one in found], color=color, label=name, marker="o")
                lows, highs = [one.low for one in found], [one.high for one in found]
                axis.fill_between(turns, lows, highs, color=color, alpha=0.15, linewidth=0)
            axis.set(title=metric, xlabel="iteration")
        panels[0].legend(loc="lower right")
        figure.tight_layout()
        return svg(figure)


if __name__ == "__main__":
    main()
