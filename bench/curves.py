"""Cost against prompts, answers, lengths and model size: the engine's and `generate`'s.

    python bench/curves.py --out runs/bench/curves.json --picture docs/img/curves.svg

Around one case (a random Qwen3 of 10 M parameters, 4 prompts of 128 tokens, 8 answers of 32 tokens
to each) one thing at a time is changed. Theirs is `generate(num_return_sequences=n)` with up to 64
rows at a time. Random models hardly ever end an answer, so that both make the same number of
tokens. A point is the faster of two rounds; what OUT has is not measured again. The last panel of
the picture is what `bench/memory.py` found, if MEMORY is there.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from generate import stock
from matplotlib.ticker import FuncFormatter, NullFormatter
from pictures import chart
from policies import SIZES, as_loaded, prompts, random_policy

from harness.core.files import write_json
from harness.core.log import say
from harness.engines import Sampling
from harness.engines.hf import HFEngine
from harness.render.style import BLUE, RED
from rlrf.quiet import quiet

ROWS = 64  # that `generate` is given at a time
ROUNDS, LONG = 2, 3.0  # no second round of what took so many seconds


@dataclass(frozen=True)
class Case:
    prompts: int = 4
    n: int = 8
    prompt_tokens: int = 128
    response_tokens: int = 32
    millions: float = 10  # of parameters


CURVES: dict[str, tuple[str, tuple[float, ...]]] = {
    "prompts": ("prompts", (1, 4, 16, 32)),
    "n": ("answers to a prompt, n", (1, 2, 8, 32)),
    "prompt_tokens": ("tokens of a prompt", (32, 128, 512, 1024)),
    "response_tokens": ("tokens of an answer", (8, 32, 128, 256)),
    "millions": ("million parameters", tuple(size for size in SIZES if size != 60)),
}


def cases() -> dict[str, list[Case]]:
    """Of each curve its points."""
    return {
        name: [replace(Case(), **{name: value}) for value in values]
        for name, (_, values) in CURVES.items()
    }


def key(case: Case) -> str:
    return " ".join(f"{name}={value:g}" for name, value in asdict(case).items())


def measure(case: Case) -> dict[str, float]:
    """Seconds of both sides."""
    with tempfile.TemporaryDirectory() as folder:
        policy = random_policy(Path(folder), case.millions)
        engine, model = HFEngine(policy, device="cpu"), as_loaded(policy)
        texts = prompts(engine.tokenizer, case.prompts, case.prompt_tokens)

        def theirs() -> int:
            made = stock(
                model,
                engine,
                texts,
                max(1, ROWS // case.n),
                case.response_tokens,
                do_sample=True,
                top_k=0,
                num_return_sequences=case.n,
            )
            return sum(map(len, made))

        def ours() -> int:
            sampling = Sampling(temperature=1.0, n=case.n, max_tokens=case.response_tokens)
            answers = engine.generate(texts, sampling)
            return sum(one.completion_tokens or 0 for row in answers for one in row)

        most = case.prompts * case.n * case.response_tokens
        engine.generate(texts[:1], Sampling(max_tokens=2))  # warm
        return {side.__name__: seconds(side, most, case) for side in (theirs, ours)}


def seconds(work: Callable[[], int], most: int, case: Case) -> float:
    """Of the faster of two rounds, or of one where that is long."""
    took = []
    while len(took) < ROUNDS and sum(took) < LONG:
        started = time.perf_counter()
        made = work()
        took.append(time.perf_counter() - started)
        if not 0.8 * most <= made <= most:
            raise SystemExit(f"{key(case)}: answers end early")
    return min(took)


def draw(found: dict[str, dict[str, float]], memory: Path, file: Path) -> None:
    """A panel a curve, and one of memory."""
    with chart(file, panels=3, rows=2) as axes:
        for axis, (name, points) in zip(axes, cases().items(), strict=False):
            values = CURVES[name][1]
            for side, colour, label in (("theirs", RED, "generate"), ("ours", BLUE, "hf engine")):
                took = [found[key(case)][side] for case in points]
                axis.plot(values, took, "o-", color=colour, label=label)
            scaled(axis, values, CURVES[name][0])
        for axis in axes[::3]:
            axis.set_ylabel("seconds")
        axes[0].legend()
        if not memory.is_file():
            axes[-1].set_axis_off()
            return
        stages = json.loads(memory.read_text())["rows"]
        for row, colour, label in zip(stages, (BLUE, RED), ("explore", "evaluate"), strict=True):
            points = {int(count): mib for count, mib in row["points"].items()}
            axes[-1].plot(points.keys(), points.values(), "o-", color=colour, label=label)
        scaled(axes[-1], tuple(points), "prompts")
        axes[-1].set(yscale="linear", ylabel="MiB at the peak", ylim=(0, None))
        axes[-1].legend(loc="lower right")


def scaled(axis: Any, values: tuple[float, ...], label: str) -> None:
    axis.set(xscale="log", yscale="log", xlabel=label)
    axis.set_xticks(values, [f"{value:,g}" for value in values])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    )


@quiet()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="file; points in it are kept")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--memory", type=Path, default=Path("runs/bench/memory.json"))
    parser.add_argument("--only", help="some of " + ", ".join(CURVES))
    told = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    found = json.loads(told.out.read_text()) if told.out.is_file() else {}
    for name, points in cases().items():
        if told.only and name not in told.only.split(","):
            continue
        for case in points:
            if key(case) not in found:
                found[key(case)] = measure(case)
                told.out.parent.mkdir(parents=True, exist_ok=True)
                write_json(told.out, found)
            both = found[key(case)]
            say(f"{key(case)}: {both['theirs']:.2f} s, ours {both['ours']:.2f} s")
    if told.picture is not None:
        draw(found, told.memory, told.picture)


if __name__ == "__main__":
    main()
