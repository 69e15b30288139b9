"""How long the gate takes on a large evaluation.

.venv/bin/python bench/gate_speed.py --items 10000 --metrics 8
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time
from dataclasses import dataclass

import numpy as np

from harness.gate import decide
from harness.schema import Evaluation, Metric, ModelRef, Policy, Rule, Score, digest


@dataclass(frozen=True)
class Made:
    evaluation: Evaluation
    scores: list[Score]


def made(items: list[str], metrics: list[Metric], seed: int) -> Made:
    """An evaluation as `decide` reads one: half of the metrics yes/no, half graded."""
    rng = np.random.default_rng(seed)
    columns = [
        rng.integers(0, 2, len(items)) if metric.kind == "binary" else rng.uniform(size=len(items))
        for metric in metrics
    ]
    scores = [
        Score(
            task="speed",
            item=item,
            index=i,
            values={
                metric.name: float(column[i])
                for metric, column in zip(metrics, columns, strict=True)
            },
        )
        for i, item in enumerate(items)
    ]
    evaluation = Evaluation(
        task="speed",
        task_version="1",
        split="gate",
        model=ModelRef(id=f"model {seed}", digest=digest(seed)),
        engine="made up",
        decoding={},
        dataset_digest=digest(items),
        prompt_digest=digest(""),
        code_version="0",
        items=len(items),
        definitions={metric.name: metric for metric in metrics},
        metrics={},
        samples_digest=digest(seed),
        scores_digest=digest(seed),
    )
    return Made(evaluation, scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--metrics", type=int, default=8)
    parser.add_argument("--times", type=int, default=7)
    told = parser.parse_args()
    items = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(told.items)]
    metrics = [
        Metric(name=f"m{k}", kind="continuous" if k % 2 else "binary") for k in range(told.metrics)
    ]
    policy = Policy(rules=[Rule(task="speed", metric=m.name, margin=0.05) for m in metrics])
    before, after = ({"speed": made(items, metrics, seed)} for seed in (0, 1))
    decide(policy, before, after)  # imports
    took = []
    for _ in range(told.times):
        started = time.perf_counter()
        decide(policy, before, after)
        took.append(time.perf_counter() - started)
    print(
        f"decide, {told.items:,} items x {told.metrics} metrics: median "
        f"{statistics.median(took):.3f} s, from {min(took):.3f} to {max(took):.3f} s "
        f"over {told.times} runs"
    )


if __name__ == "__main__":
    main()
