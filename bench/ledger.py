"""How long a ledger of 100,000 rows takes to verify, and what that time goes into.

    python bench/ledger.py --out ledger.json

The rows are those of loops (two evaluations of 200 items, two decisions, a promotion) that many
runs repeat: `--distinct` loops differ, the others are found right once. Beside it: the time to read
the file, hash it and parse its lines, against the chain alone and against all that is verified, and
(`distinct_seconds`) to recompute every distinct loop.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ratio

from harness.board import Board
from harness.board.ledger import FIRST, Reading
from harness.core.files import records_digest
from harness.core.schema import Evaluation, Metric, ModelRef, Policy, Rule, Score, digest
from harness.core.scored import ScoredEvaluation
from harness.gate import decide, promote
from harness.stats.intervals import aggregate

POLICY = Policy(rules=[Rule(task="quiz", metric="accuracy", margin=0.1)])


def evaluation(model: str, rng: random.Random, items: int) -> ScoredEvaluation:
    """An evaluation with its scores: a coin decides each answer."""
    names = [hashlib.sha256(f"item {i}".encode()).hexdigest() for i in range(items)]
    scores = [
        Score(task="quiz", item=name, index=i, values={"accuracy": float(rng.random() < 0.6)})
        for i, name in enumerate(names)
    ]
    found = Evaluation(
        task="quiz",
        task_version="1",
        split="gate",
        model=ModelRef(id=model, digest=digest(model)),
        engine="hf",
        decoding={"temperature": 0},
        dataset_digest=digest(names),
        prompt_digest=digest("prompt"),
        code_version="0",
        items=items,
        definitions={"accuracy": Metric(name="accuracy", kind="binary", primary=True)},
        metrics=aggregate(scores),
        samples_digest=digest(model),
        scores_digest=records_digest(scores),
    )
    return ScoredEvaluation(found, scores)


def loop(board: Board, k: int, items: int) -> None:
    """Two evaluations, the decisions between them, and the promotion: five rows."""
    rng = random.Random(k)
    old, new = (evaluation(f"M{k}.{side}", rng, items) for side in range(2))
    board.add_evaluation(old, f"M{k}.0", "r")
    board.add_evaluation(new, f"M{k}.1", "r")
    decision = decide(POLICY, {"quiz": old}, {"quiz": new})
    board.add_decision(decision, "r", "incumbent")
    board.add_decision(decision, "r", "anchor")
    board.add_promotion(promote(decision, decision), f"M{k}.1", f"M{k}.0", "r")


def repeat(board: Board, rows: int) -> None:
    """Let further runs find the same, until there are `rows` rows."""
    entries = [line.entry for line in Reading(board.folder / "ledger.jsonl", None)]
    previous = FIRST
    with open(board.folder / "ledger.jsonl", "wb") as file:
        for number in range(rows):
            entry, run = entries[number % len(entries)], f"run {number // len(entries)}"
            rest = b'"entry":%s,"previous":"%s","run":"%s","schema_version":1}' % (
                entry,
                previous.encode(),
                run.encode(),
            )
            previous = hashlib.sha256(b"{" + rest).hexdigest()
            file.write(b'{"digest":"%s",%s\n' % (previous.encode(), rest))
    (board.folder / "HEAD").write_text(previous + "\n")


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--distinct", type=int, default=100, help="loops, of five rows")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        board = Board(Path(folder))
        for k in range(options.distinct):
            loop(board, k, options.items)
        distinct = seconds(board.verify)
        repeat(board, options.rows)
        ledger = board.folder / "ledger.jsonl"
        size = ledger.stat().st_size

        def read() -> list[str]:
            """What any reader has to do: hash the bytes and parse every line."""
            content = ledger.read_bytes()
            hashlib.sha256(content).digest()
            return [line for line in content.splitlines() if "digest" not in json.loads(line)]

        def chain() -> str:
            """Every row has its digest and follows the one before, and HEAD names the last."""
            reading = Reading(ledger, board.folder / "HEAD")
            collections.deque(reading, maxlen=0)
            return reading.damage or reading.interrupted

        rows = [
            ratio.race(
                f"a ledger of {options.rows:,} rows {what}, against reading it",
                read,
                work,
                rounds=options.rounds,
                same=lambda _, faults: not faults,
                MB=round(size / 1e6, 1),
                distinct_rows=5 * options.distinct,
                distinct_seconds=distinct,
                **more,
            )
            for what, work, more in (
                ("chained", chain, {"target": 1.0}),
                ("verified", board.verify, {}),
            )
        ]
    ratio.publish(rows, options.out)


if __name__ == "__main__":
    main()
