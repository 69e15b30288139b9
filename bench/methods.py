"""Every method on the embedded world at equal budget: one table, one board, recomputable.

    python bench/methods.py --out runs/methods --jobs 2
    python bench/methods.py --out runs/methods --only "RLRF; reward only" --seeds 0

Each row of the table is a configuration of `rlrf train`, kept as YAML in OUT/configs and run in
OUT/runs; started again, everything goes on where it stopped. All rows start from the seed policy
M0, explore the same prompts of their seed, sample eight responses a prompt and iteration (RLRF:
six, and up to two rewrites), are gated on the same slices and measured on the same sealed items,
which nothing was trained or chosen on. Reward models learn from preferences between M0's own
answers that the verifier ordered: from all labels, or by self-evolved learning from 15 % of them.

Learning rates were chosen for each method on another seed, by the gate split.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from harness import evaluation
from harness.errors import UserError
from harness.leaderboard import Board
from harness.progress import say
from harness.schema import MetricResult, Record
from harness.store import parse, read_json, write_json, write_jsonl, write_text
from rlrf.quickstart import seed_policy
from rlrf.quickstart.corpus import complete, plain
from rlrf.result import RunResult, table
from rlrf.reward_model.config import SelfEvolution
from rlrf.reward_model.result import SelfEvolutionResult
from rlrf.reward_model.self_evolve import self_evolve
from rlrf.reward_model.source import Demonstration
from rlrf.reward_model.world import sample_preferences
from tasks.mini import arithmetic, biography, instructions, world
from tasks.plugin import item_values, summarize

HEADLINE = {
    "mini_gsm8k": "accuracy",
    "mini_factscore": "precision",
    "mini_just_eval": "overall",
}
PREFERENCES, HELD_OUT = 1600, 1200  # pairs for the reward models, and to measure them on

BASE: dict[str, Any] = {
    "iterations": 2,
    "tasks": [
        {"name": "mini_gsm8k", "prompts": 240},
        {"name": "mini_factscore", "prompts": 160},
        {"name": "mini_just_eval", "prompts": 120},
    ],
    "explore": {"n": 8, "temperature": 1.0},
    "reflect": {"m": 0, "temperature": 0.7},
    "pairs": {"threshold": 0.1, "per_prompt": 2, "min_chosen": 0.6},
    "train": {"beta": 0.1, "learning_rate": 1.0e-4, "batch_size": 16, "max_length": 400},
    "gate": {
        "slice": 300,
        "sealed": 1000,
        "policy": {
            "alpha": 0.05,
            "rules": [
                {"task": "mini_gsm8k", "metric": "accuracy", "margin": 0.05},
                {"task": "mini_factscore", "metric": "precision", "margin": 0.05},
                {"task": "mini_just_eval", "metric": "overall", "margin": 0.15},
            ],
        },
    },
    "engine": {"device": "cpu"},
}
REFLECT = {"explore": {"n": 6}, "reflect": {"m": 2}}
SELF_EVOLUTION: dict[str, Any] = {
    "seeds": [0, 1, 2],
    "seed_fractions": [0.15],
    "thresholds": {"published": {"minimum": 50}},
    "train": {"adapter": None, "learning_rate": 3.0e-4, "center": 0.01},
    "engine": {"device": "cpu"},
}

# The rows: what of `BASE` is otherwise. ALL, SER, ENSEMBLE and DEMONSTRATIONS are put in by `fill`.
ALL, SER, ENSEMBLE, DEMONSTRATIONS = "all labels", "ser", "ensemble", "demonstrations"
ROWS: dict[str, dict[str, Any]] = {
    "rejection sampling, reward": {
        "method": "rejection_sampling",
        "reward": {"models": ALL},
        "train": {"epochs": 2},
    },
    "rejection sampling, score": {"method": "rejection_sampling", "train": {"epochs": 2}},
    "reward only": {"method": "reward_only", "reward": {"models": ALL}},
    "reward ensemble": {"method": "reward_only", "reward": {"models": ENSEMBLE, "beta": 1.0}},
    "demonstration-anchored": {
        "method": "reward_only",
        "reward": {"models": ALL, "demonstrations": DEMONSTRATIONS},
    },
    "RRHF": {"method": "rrhf", "reward": {"models": ALL}, "train": {"batch_size": 8}},
    "SLiC-HF": {
        "method": "reward_only",
        "reward": {"models": ALL},
        "train": {"loss": {"hinge": 1.0, "sft": 0.1}},
    },
    "SER": {"method": "reward_only", "reward": {"models": SER}},
    "RLMEC": {"method": "rlmec"},
    "RLRF": {**REFLECT, "explore": {"n": 6, "keep": 4}, "reward": {"models": ALL}},
    "RLRF without the filter": REFLECT,
    "RLRF without reflection": {},
    "RLRF without fine-grained feedback": {**REFLECT, "tasks": "score"},
}


class Line(Record):
    """One row of the table: a method's incumbent, over the seeds."""

    row: str
    model: str
    seeds: int
    promoted: int = 0
    candidates: int = 0
    sealed_pass: int = 0
    metrics: dict[str, MetricResult]
    optimism: dict[str, float] = Field(default={})
    behind_rlrf: dict[str, MetricResult] = Field(default={})
    sampled: float = 0
    trained: float = 0
    seconds: float = 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help="rows, by name, with semicolons between")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--page", type=Path, help="put the tables between a page's table marks")
    told = parser.parse_args()
    seeds = [int(seed) for seed in told.seeds.split(",")]
    wanted = [part.strip().lower() for part in told.only.split(";") if part.strip()]
    rows = [row for row in ROWS if not wanted or row.lower() in wanted]
    evolution = prepare(told.out)
    runs = [(row, seed) for row in rows for seed in seeds]
    with ThreadPoolExecutor(told.jobs) as pool:
        list(pool.map(lambda run: train(told.out, *run, evolution), runs))
    report(told.out, told.page)


def prepare(out: Path) -> SelfEvolutionResult:
    """The preferences, the reward models and the demonstrations, unless they are there."""
    files = {name: out / f"{name}.jsonl" for name in ("pairs", "held_out", DEMONSTRATIONS)}
    if not all(path.is_file() for path in files.values()):
        from harness.engines.hf import HFEngine

        engine = HFEngine(seed_policy(), device="cpu")
        rng = random.Random(0)
        for name, split, prompts, size in (
            ("pairs", "train", 1600, PREFERENCES),
            ("held_out", "gate", 800, HELD_OUT),
        ):
            found = sample_preferences(engine, prompts, split=split)
            rng.shuffle(found)
            write_jsonl(files[name], found[:size])
        write_jsonl(files[DEMONSTRATIONS], demonstrations())
    config = SelfEvolution.model_validate(
        {
            "model": str(seed_policy()),
            "pairs": str(files["pairs"]),
            "held_out": str(files["held_out"]),
            **SELF_EVOLUTION,
        }
    )
    return self_evolve(config, out / "ser")


def demonstrations() -> list[Demonstration]:
    """A careful answer to every train item, as the seed corpus writes them."""
    rng = random.Random(0)
    people = world.everyone()
    careful = {
        arithmetic.TASK: lambda item: item.reference["answer"],
        biography.TASK: lambda item: plain(people[item.index]),
        instructions.TASK: lambda item: complete(item, rng),
    }
    return [
        Demonstration(prompt=item.prompt, response=write(item))
        for task, write in careful.items()
        for item in world.items(task, "train")
    ]


def train(out: Path, row: str, seed: int, evolution: SelfEvolutionResult) -> None:
    """One run, in a process of its own; one that is finished is resumed at no cost."""
    name = f"{row.lower().replace(', ', ' ').replace(' ', '_')}.{seed}"
    config = out / "configs" / f"{name}.yaml"
    write_text(config, yaml.safe_dump(fill(out, row, seed, evolution), sort_keys=False))
    folder = run_folder(out, row, seed)
    if (folder / "result.json").is_file():
        return
    log = out / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", "from rlrf.cli import main; main()", "train", str(config)]
    say(f"{row}, seed {seed}: begins; {log}")
    with log.open("w") as told:
        done = subprocess.run(
            [*command, "--out", str(folder)],
            stdout=told,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=False,
        )
    if done.returncode:
        raise UserError(f"{row}, seed {seed}, failed: {log} says why.")
    say(f"{row}, seed {seed}: done")


def run_folder(out: Path, row: str, seed: int) -> Path:
    return out / "runs" / f"{row.lower().replace(', ', ' ').replace(' ', '_')}.{seed}"


def fill(out: Path, row: str, seed: int, evolution: SelfEvolutionResult) -> dict[str, Any]:
    """The configuration of a row, whole."""
    models = {
        one.seed: (
            out / "ser" / f"seed_{one.seed}" / "all_labels" / "model",
            last_model(out / "ser", one.seed, len(one.loops) - 1),
        )
        for one in evolution.evolutions
    }
    everything, evolved = models[seed % len(models)]
    places: dict[str, Any] = {
        ALL: [str(everything.resolve())],
        SER: [str(evolved.resolve())],
        ENSEMBLE: [str(one.resolve()) for one, _ in models.values()],
    }
    change = dict(ROWS[row])
    config = {"model": str(seed_policy()), "seed": seed, **BASE}
    if change.get("tasks") == "score":
        change["tasks"] = [{**task, "feedback": "score"} for task in BASE["tasks"]]
    if source := change.get("reward"):
        change["reward"] = {**source, "models": places[source["models"]]}
        if "demonstrations" in source:
            change["reward"]["demonstrations"] = str((out / f"{DEMONSTRATIONS}.jsonl").resolve())
    for key, value in change.items():
        config[key] = {**config[key], **value} if key in ("explore", "reflect", "train") else value
    return config


def last_model(run: Path, seed: int, loops: int) -> Path:
    """The reward model that self-evolution ended with."""
    name = "0.15_loop_0" if loops == 0 else f"0.15_published_loop_{loops}"
    return run / f"seed_{seed}" / name / "model"


def report(out: Path, page: Path | None) -> None:
    """The board and the tables of all runs that are finished."""
    found: dict[str, dict[int, RunResult]] = {}
    for row in ROWS:
        for path in sorted(out.glob(f"runs/{run_folder(out, row, 0).stem}.*/result.json")):
            seed = int(path.parent.suffix[1:])
            found.setdefault(row, {})[seed] = parse(RunResult, read_json(path), str(path))
    if not found:
        raise UserError("No run is finished yet.")
    publish(out, found)
    lines = table_lines(out, found)
    write_json(out / "table.json", [line.model_dump(mode="json") for line in lines])
    text = f"{markdown(lines)}\n\n{compared(lines)}"
    write_text(out / "table.md", text + "\n")
    print(text)
    if page is not None:
        begins, ends = "<!-- table -->", "<!-- /table -->"
        before, _, rest = page.read_text().partition(begins)
        _, _, after = rest.partition(ends)
        write_text(page, f"{before}{begins}\n\n{text}\n\n{ends}{after}")


def publish(out: Path, found: Mapping[str, Mapping[int, RunResult]]) -> None:
    """All sealed evaluations and decisions on one board: a run a seed, a model a row."""
    board = Board(out / "board")
    for row, results in found.items():
        for seed, result in results.items():
            for model in result.sealed:
                name = model.name if model.vs_anchor is None else f"{row} {model.name}"
                folder = run_folder(out, row, seed) / "sealed" / model.name
                for scored in evaluation.load(folder).values():
                    board.add_evaluation(scored, name, f"seed {seed}")
                if model.vs_anchor is not None:
                    board.add_decision(model.vs_anchor, f"seed {seed}", "sealed")


def table_lines(out: Path, found: Mapping[str, Mapping[int, RunResult]]) -> list[Line]:
    """M0, then what the gate left of each method; of RLRF both iterations."""
    first = next(iter(next(iter(found.values())).values()))
    lines = [Line(row="M0", model="M0", seeds=1, metrics=headline(first, "M0"))]
    best = {seed: values(out, "RLRF", seed, r) for seed, r in found.get("RLRF", {}).items()}
    for row, results in found.items():
        if row == "RLRF":
            lines.append(line(row, results, "M1"))
        one = line(row, results, None)
        gaps: dict[str, MetricResult] = {}
        if row != "RLRF" and best.keys() >= results.keys():
            own = {seed: values(out, row, seed, result) for seed, result in results.items()}
            gaps = {task: gap(best, own, task) for task in HEADLINE}
        lines.append(one.model_copy(update={"behind_rlrf": gaps}))
    return lines


def line(row: str, results: Mapping[int, RunResult], model: str | None) -> Line:
    """`model` of each run, or where it is None its incumbent."""
    runs = list(results.values())
    names = [model or run.incumbent for run in runs]
    sealed = [
        next(s for s in run.sealed if s.name == name) for run, name in zip(runs, names, strict=True)
    ]
    optimism = [run.optimism(name) for run, name in zip(runs, names, strict=True)]
    turns = [turn for run in runs for turn in run.iterations if model in (None, turn.candidate)]
    return Line(
        row=row,
        model=model or "/".join(sorted(set(names))),
        seeds=len(runs),
        promoted=sum(turn.takes_over for turn in turns),
        candidates=len(turns),
        sealed_pass=sum(s.vs_anchor is not None and s.vs_anchor.verdict == "pass" for s in sealed),
        metrics={
            task: over_seeds([s.metrics[f"{task} {metric}"] for s in sealed])
            for task, metric in HEADLINE.items()
        },
        optimism={
            task: sum(gaps) / len(gaps)
            for task, metric in HEADLINE.items()
            if (gaps := [one[f"{task} {metric}"] for one in optimism if one])
        },
        sampled=sum(turn.lessons.sampled for turn in turns) / len(runs),
        trained=sum(turn.lessons.trained for turn in turns) / len(runs),
        seconds=sum(turn.seconds for turn in turns) / len(runs),
    )


def headline(result: RunResult, name: str) -> dict[str, MetricResult]:
    sealed = next(s for s in result.sealed if s.name == name)
    return {task: sealed.metrics[f"{task} {metric}"] for task, metric in HEADLINE.items()}


def over_seeds(found: Sequence[MetricResult]) -> MetricResult:
    """Mean over runs with Student's t interval over them; one run keeps that over its items."""
    if len(found) == 1:
        return found[0]
    return summarize([one.mean for one in found if one.mean is not None])


def values(out: Path, row: str, seed: int, result: RunResult) -> dict[str, dict[str, float]]:
    """Task -> sealed item -> value of the run's incumbent."""
    scored = evaluation.load(run_folder(out, row, seed) / "sealed" / result.incumbent)
    return {task: item_values(scored[task].scores, name) for task, name in HEADLINE.items()}


def gap(
    best: Mapping[int, Mapping[str, Mapping[str, float]]],
    own: Mapping[int, Mapping[str, Mapping[str, float]]],
    task: str,
) -> MetricResult:
    """By how much RLRF is ahead: mean over items of the mean over seeds, paired."""
    seeds = sorted(own)
    items = best[seeds[0]][task]
    return summarize(
        [
            sum(best[seed][task][item] - own[seed][task][item] for seed in seeds) / len(seeds)
            for item in items
        ]
    )


def markdown(lines: Sequence[Line]) -> str:
    head = ["method", "model", *(f"{task} {name}" for task, name in HEADLINE.items())]
    head += ["promoted", "sealed pass", "optimism", "sampled", "trained on", "seconds"]
    rows = [head]
    for one in lines:
        rows.append(
            [
                one.row,
                one.model,
                *(number(one.metrics[task]) for task in HEADLINE),
                f"{one.promoted} of {one.candidates}" if one.candidates else "-",
                f"{one.sealed_pass} of {one.seeds}" if one.candidates else "-",
                " / ".join(f"{gap:+.3f}" for gap in one.optimism.values()) or "-",
                f"{one.sampled:,.0f}" if one.candidates else "-",
                f"{one.trained:,.0f}" if one.candidates else "-",
                f"{one.seconds:,.0f}" if one.candidates else "-",
            ]
        )
    return table(rows)


def compared(lines: Sequence[Line]) -> str:
    """What RLRF is ahead by, paired by item."""
    rows = [["RLRF ahead of", *HEADLINE]]
    rows += [
        [one.row, *(number(one.behind_rlrf[task], "+") for task in HEADLINE)]
        for one in lines
        if one.behind_rlrf
    ]
    return table(rows)


def number(found: MetricResult, sign: str = "") -> str:
    if found.mean is None:
        return "-"
    shown = f"{found.mean:{sign}.3f}"
    if found.low is None or found.high is None:
        return shown
    return f"{shown} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
