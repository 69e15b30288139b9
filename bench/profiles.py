"""What is left of a decoding step and of a DPO step: arithmetic, or overhead.

    python bench/profiles.py --out profiles.json

Of each: its milliseconds, and which share of them PyTorch's profiler finds in matrix products and
attention, in the other operations on tensors (norms, activations, sums, copies), and in none: the
rest is Python, and what PyTorch itself needs to begin an operation. The profiler's own microseconds
count in part as overhead, in part as operations. A decoding step is the 32nd part of 33 tokens less
one token.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dpo import Case, draw, step
from policies import RANDOM, SHIPPED, asked, prompts, random_policy
from torch.profiler import ProfilerActivity, profile

from harness.core.files import write_json
from harness.core.log import say
from harness.engines import Sampling
from harness.engines.hf import HFEngine
from harness.render.table import table
from rlrf.quickstart import seed_policy
from rlrf.quiet import quiet

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "_linear_pointwise", "_scaled_dot_product")
STEPS = 32
Times = dict[str, float]  # seconds


def measured(work: Callable[[], object], rounds: int) -> Times:
    """The seconds of `work`; those under the profiler, and of the operations seen by it."""
    work()  # warm
    took = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        started = time.perf_counter()
        work()
        profiled = time.perf_counter() - started
    found = {"plain": float(np.median(took)), "profiled": profiled, "products": 0.0, "tensors": 0.0}
    for event in seen.key_averages():
        kind, _, name = event.key.partition("::")
        if kind in ("aten", "mkldnn"):
            part = "products" if name.startswith(PRODUCTS) else "tensors"
            found[part] += event.self_cpu_time_total / 1e6
    return found


def row(what: str, found: Times, times: int = 1) -> dict[str, Any]:
    shares = {part: found[part] / found["profiled"] for part in ("products", "tensors")}
    made = {"what": what, "ms": 1000 * found["plain"] / times, **shares}
    made["rest"] = 1 - sum(shares.values())
    say(f"{what}: {made['ms']:.1f} ms, {made['rest']:.0%} overhead")
    return made


def decoding(name: str, folder: Path, rows: int, rounds: int, **more: Any) -> dict[str, Any]:
    """A step of `rows` rows, eight to a prompt, with about 128 tokens before them."""
    engine = HFEngine(folder, device="cpu", max_batch=rows)
    engine.ends = engine.ends[:0]  # so that no row leaves
    texts = asked(engine.tokenizer, prompts(engine.tokenizer, rows // 8, 128))

    def answer(tokens: int) -> Callable[[], object]:
        sampling = Sampling(temperature=1.0, n=8, max_tokens=tokens, **more)
        return lambda: engine.generate(texts, sampling)

    long, short = (measured(answer(tokens), rounds) for tokens in (1 + STEPS, 1))
    found = {part: long[part] - short[part] for part in long}
    stops = ", two stop strings" if more else ""
    return row(f"decoding {rows} rows{stops}, {name}", found, STEPS)


def rows(rounds: int) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as place:
        big = random_policy(Path(place))
        for count in (8, 64, 256):
            yield decoding(SHIPPED, seed_policy(), count, rounds)
        yield decoding(SHIPPED, seed_policy(), 256, rounds, stop=("\n\n", "Question:"))
        for count in (8, 64):
            yield decoding(RANDOM, big, count, rounds)
    for name, model, pairs in ((SHIPPED, "m0", 8), (RANDOM, "60M", 1)):
        run = step("ours", Case(model), draw([(256, 64, 64)] * pairs))
        yield row(f"DPO step, {pairs} x 256/64, {name}", measured(run, rounds))


@quiet()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    told = parser.parse_args()
    torch.set_num_threads(1)
    found = list(rows(told.rounds))
    if told.out is not None:
        write_json(told.out, found)
    head = ["step", "ms", "matrix products, attention", "other tensor operations", "overhead"]
    body = [
        [
            one["what"],
            f"{one['ms']:.1f}",
            *(f"{one[k]:.0%}" for k in ("products", "tensors", "rest")),
        ]
        for one in found
    ]
    print(table([head, *body]))


if __name__ == "__main__":
    main()
