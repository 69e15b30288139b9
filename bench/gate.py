"""How long the gate takes on a large evaluation.

python bench/gate.py --items 10000 --metrics 8 --out gate.json
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import ratio

from harness.core.schema import Evaluation, Metric, ModelRef, Policy, Rule, Score, digest
from harness.core.scored import ScoredEvaluation
from harness.gate import decide

LIMIT = 0.1  # seconds


def made(items: list[str], metrics: list[Metric], seed: int) -> ScoredEvaluation:
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
    return ScoredEvaluation(evaluation, scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--metrics", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    told = parser.parse_args()
    items = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(told.items)]
    metrics = [
        Metric(name=f"m{k}", kind="continuous" if k % 2 else "binary") for k in range(told.metrics)
    ]
    policy = Policy(rules=[Rule(task="speed", metric=m.name, margin=0.05) for m in metrics])
    before, after = ({"speed": made(items, metrics, seed)} for seed in (0, 1))
    row = ratio.within(
        f"the gate on {told.items:,} items x {told.metrics} metrics within {LIMIT:g} s",
        LIMIT,
        lambda: decide(policy, before, after),
        rounds=told.rounds,
    )
    ratio.publish([row], told.out)


if __name__ == "__main__":
    main()
