"""The constants of bench/cost.py: one core of this machine, and our code on it.

    OMP_NUM_THREADS=1 python bench/cost_constants.py

writes bench/cost.json in some two minutes. Seconds are those of the processor, as others may use
the machine too. The shipped policy (1.4 M) gives what the host adds to a step, a random Qwen3 of
60 M the shares; one of 10 M, at other lengths, is what the constants are checked on.
"""

from __future__ import annotations

import argparse
import math
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cost import KEPT, Machine, Measured, Model, step
from gate import made
from policies import as_loaded, prompts, random_policy
from transformers import AutoTokenizer

from harness.core.files import write_json
from harness.core.schema import (
    AspectFeedback,
    Feedback,
    Metric,
    Policy,
    Rule,
    Sample,
    Score,
    digest,
)
from harness.engines import Sampling
from harness.engines.hf import HFEngine
from harness.engines.model_folder import Checkpoint
from harness.gate import decide
from rlrf.config import Device, Pairing
from rlrf.feedback import Judged
from rlrf.objectives.dpo import dpo
from rlrf.objectives.job import Job
from rlrf.pairs import Pair, make_pairs
from rlrf.quickstart import seed_policy
from rlrf.reward import Reward, Rewarded
from rlrf.run import open_run
from rlrf.training_config import Training


def took(work: Callable[[], object], times: int = 1) -> float:
    """The least of a few."""
    found = []
    for _ in range(times):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def plain(folder: Path) -> HFEngine:
    """The engine with layers as a GPU has them."""
    return HFEngine(as_loaded(folder), tokenizer=folder, device="cpu")


def shape(config: Any) -> Model:
    return Model(
        "measured",
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
        config.vocab_size,
        width=4,
        tied=True,
    )


def measure() -> Measured:
    """Constants from the shipped policy (1.4 M) and a random Qwen3 of 60 M; one of 10 M checks."""
    square = torch.rand(1536, 1536)
    flops = 2 * 1536**3 / took(lambda: square @ square, 5)
    long = torch.rand(2**26)
    bandwidth = 4 * 2**26 / took(long.sum, 5)
    with tempfile.TemporaryDirectory() as scratch:
        folders = {size: random_policy(Path(scratch) / str(size), size) for size in (10, 60)}
        small, large = plain(seed_policy()), plain(folders[60])
        model = shape(large.model.config)
        layers = small.model.config.num_hidden_layers
        host = writes(small, 1, 16, 96) / layers
        step_of = writes(large, 1, 16, 48)
        decode = model.bytes / (step_of - model.layers * host) / bandwidth
        tokens, seconds = reads(large, 4, 384)
        prefill = model.forward(tokens, tokens / 8, 4) / seconds / flops
        pair = learns(folders[60], model, 2, 6)
        found = Measured(
            machine=machine(),
            flops=flops,
            bandwidth=bandwidth,
            prefill=prefill,
            decode=decode,
            host=host,
            train=pair[0] / pair[1] / flops,
            record=keeps(1500),
            gate=decides(4000),
            checks={},
        )
        return found.model_copy(update={"checks": checked(found, folders[10])})


def checked(measured: Measured, folder: Path) -> dict[str, list[float]]:
    """What the constants say of another model and other lengths, and what it takes."""
    engine = plain(folder)
    model = shape(engine.model.config)
    at = Machine(
        prefill=measured.flops * measured.prefill,
        flops=measured.flops * measured.prefill,
        bandwidth=measured.bandwidth * measured.decode,
        train=measured.flops * measured.train,
        host=measured.host,
        room=math.inf,
    )
    tokens, seconds = reads(engine, 4, 192)
    alone = writes(engine, 1, 16, 64)
    eight = writes(engine, 8, 16, 64)
    operations, pair = learns(folder, model, 4, 12)
    return {
        "read 4 prompts": [model.forward(tokens, tokens / 8, 4) / at.prefill, seconds],
        "write a token, 1 row": [step(model, at, 1, 48, 0), alone],
        "write a token, 8 rows": [step(model, at, 8, 32, 2), eight],
        "learn from a pair": [operations / at.train, pair],
    }


def reads(engine: Any, count: int, length: int) -> tuple[int, float]:
    """Tokens of `count` prompts, and seconds to read them."""
    asked = prompts(engine.tokenizer, count, length)
    tokens = sum(len(engine.encode(text)) for text in asked)
    return tokens, took(lambda: engine.generate(asked, Sampling(max_tokens=1)), 3)


def writes(engine: Any, n: int, length: int, tokens: int) -> float:
    """Seconds to write a token in each of `n` rows of one prompt, which was read before."""

    (asked,) = prompts(engine.tokenizer, 1, length)
    engine.ends = engine.ends[:0]  # no row leaves

    def run(most: int) -> float:
        sampling = Sampling(temperature=1.0, n=n, max_tokens=most)
        return took(lambda: engine.generate([asked], sampling), 3)

    return (run(tokens) - run(tokens // 4)) / (tokens - tokens // 4)


def learns(folder: Path, model: Model, few: int, many: int) -> tuple[float, float]:
    """Operations and seconds of DPO a pair, by the difference of two trainings."""

    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = prompts(tokenizer, 3 * many, 96)
    pairs = [
        Pair(
            task="bench",
            item=str(i),
            index=i,
            prompt=texts[3 * i],
            chosen=texts[3 * i + 1],
            rejected=texts[3 * i + 2],
            gap=1.0,
            similarity=0.0,
            chosen_origin="explored",
            rejected_origin="explored",
            rejected_cut=False,
        )
        for i in range(many)
    ]

    def run(count: int) -> float:
        with tempfile.TemporaryDirectory() as out:
            return took(
                lambda: dpo(
                    pairs[:count],
                    Job(
                        start=Checkpoint("M0", folder),
                        config=Training(learning_rate=1e-5, max_length=1000, batch_size=few),
                        adapter=None,
                        device=Device(device="cpu"),
                        seed=0,
                        out=Path(out),
                    ),
                )
            )

    run(few)  # warm
    length = sum(len(tokenizer.encode(text)) for text in texts) / len(texts)
    operations = 4 * model.forward(3 * length, length, 2 * length)
    return operations, (run(many) - run(few)) / (many - few)


def keeps(count: int) -> float:
    """Seconds a response for its records, by the stages' own doors, and for its pairs."""

    words = "the answer is what you get when two numbers are added and one is taken away".split()

    def text(seed: int, length: int) -> str:
        return " ".join(words[(seed * k + k) % len(words)] for k in range(1, length))

    samples = [
        Sample(
            task="bench",
            item=digest(i // 30),
            index=i // 30,
            repeat=i % 30,
            prompt=text(i // 30, 200),
            response=text(i, 200),
            finish_reason="stop",
        )
        for i in range(count)
    ]
    judged = [
        Judged(
            sample=one,
            score=Score(task="bench", item=one.item, index=one.index, values={"right": i % 7 / 6}),
            feedback=Feedback(
                task="bench",
                item=one.item,
                aspects=[AspectFeedback(aspect="all", justification=text(i, 50), grade=i % 3)],
            ),
        )
        for i, one in enumerate(samples)
    ]
    rewarded = [Rewarded(one.sample, Reward(value=one.score.values["right"])) for one in judged]

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder, open_run(Path(folder) / "run", {}) as kept:
            first = kept.records("explore", Sample, [], lambda: samples)
            kept.records("feedback", Judged, [first], lambda: judged)
        make_pairs(rewarded, Pairing(), 0)

    return took(run) / count


def decides(count: int) -> float:
    """Seconds an item of the gate's decision on two metrics."""

    items = [str(i) for i in range(count)]
    metrics = [Metric(name="right", kind="binary"), Metric(name="graded", kind="continuous")]
    policy = Policy(rules=[Rule(task="speed", metric=one.name, margin=0.05) for one in metrics])
    before, after = ({"speed": made(items, metrics, seed)} for seed in (0, 1))
    return took(lambda: decide(policy, before, after), 3) / count


def machine() -> str:
    names = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    processor = names[0].partition(": ")[2] if names else platform.processor()
    return f"{processor}, one core, torch {torch.__version__}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=KEPT, help="file for the measurements")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    write_json(out, measure())
    print(out.read_text())
