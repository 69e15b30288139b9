"""Exploration: eight samples a prompt, against `generate(num_return_sequences=8)`.

    python bench/generate.py --out generate.json

On the shipped policy and a random Llama, prompts of about 128 and 384 tokens. Both sides get the
same prompts, theirs as many at a time as is fastest of a few batch sizes. Proven equal: the greedy
answers to all prompts. Samples differ by their seeds; their numbers of tokens are within a quarter.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import ratio
import torch
from policies import RANDOM, SHIPPED, prompts, random_llama

from harness.engines import Sampling
from harness.engines.hf import HFEngine
from rlrf.quickstart import seed_policy

N = 8
AT_A_TIME = (1, 4, 16)  # prompts
TARGETS = {128: 2.0, 384: 3.0}


@torch.inference_mode()
def stock(
    engine: HFEngine, asked: list[str], at_a_time: int, tokens: int, **options: Any
) -> list[list[int]]:
    """What `generate` gives to each prompt, as token ids without padding."""
    engine.tokenizer.padding_side = "left"
    made: list[list[int]] = []
    for start in range(0, len(asked), at_a_time):
        batch = asked[start : start + at_a_time]
        inputs = engine.tokenizer(batch, return_tensors="pt", padding=True)
        out = engine.model.generate(**inputs, max_new_tokens=tokens, **options)
        for row in out[:, inputs.input_ids.shape[1] :].tolist():
            ended = [at for at, token in enumerate(row) if token in engine._ends]
            made.append(row[: ended[0] + 1] if ended else row)
    return made


def rows(name: str, folder: Path, count: int, tokens: int, rounds: int) -> list[dict[str, Any]]:
    engine = HFEngine(folder, device="cpu")
    found = []
    for length, target in TARGETS.items():
        asked = prompts(folder, count, length)
        greedy = engine.generate(asked, Sampling(max_tokens=tokens))
        for one, ids in zip(greedy, stock(engine, asked, 4, tokens, do_sample=False), strict=True):
            if one[0].text != engine.tokenizer.decode(ids, skip_special_tokens=True):
                raise SystemExit(f"{name}: a greedy answer differs")

        def theirs(at_a_time: int, asked: list[str] = asked) -> int:
            options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "num_return_sequences": N}
            return sum(map(len, stock(engine, asked, at_a_time, tokens, **options)))

        def ours(asked: list[str] = asked) -> int:
            sampling = Sampling(temperature=1.0, n=N, max_tokens=tokens)
            answers = engine.generate(asked, sampling)
            return sum(one.completion_tokens for made in answers for one in made)

        took = {}
        for at_a_time in AT_A_TIME:
            started = time.perf_counter()
            theirs(at_a_time)
            took[at_a_time] = time.perf_counter() - started
        best = min(took, key=took.__getitem__)
        found.append(
            ratio.race(
                f"{N} samples a prompt of {length} tokens, {name}",
                lambda best=best, theirs=theirs: theirs(best),
                ours,
                rounds=rounds,
                same=lambda a, b: abs(a - b) <= 0.25 * a,
                target=target,
                prompts=count,
                tokens=tokens,
                prompts_at_a_time=best,
            )
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        big = random_llama(Path(folder) / "llama")
        made = rows(SHIPPED, seed_policy(), 4 * told.prompts, told.tokens, told.rounds)
        made += rows(RANDOM, big, max(1, told.prompts // 4), told.tokens, told.rounds)
    ratio.publish(made, told.out)


if __name__ == "__main__":
    main()
