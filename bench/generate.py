"""Exploration: eight samples a prompt, against `transformers`' own ways to generate.

    python bench/generate.py --out generate.json

On the shipped policy and a random Qwen3, prompts of about 128 and 384 tokens. Theirs are
`generate(num_return_sequences=8)` with as many prompts at a time as is fastest, and
`generate_batch`, which is paged continuous batching. Proven equal: the greedy answers of `generate`
to all prompts; those of `generate_batch`, which rounds differently, are counted. Samples differ by
their seeds; their numbers of tokens are within a quarter.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ratio
import torch
from policies import RANDOM, SHIPPED, as_loaded, asked, prompts, random_policy
from transformers import ContinuousBatchingConfig, GenerationConfig

from harness.engines import Sampling
from harness.engines.hf import HFEngine
from rlrf.quickstart import seed_policy
from rlrf.quiet import quiet

N = 8
AT_A_TIME = (1, 4, 8)  # prompts that `generate` is given
TARGETS = {128: 2.0, 384: 3.0}
PAGE = 128  # tokens of a page of `generate_batch`; with 32 it took half as long again
TOGETHER = (256, 1024)  # tokens that `generate_batch` reads at a time
DRAWS = {"do_sample": True, "temperature": 1.0, "top_k": 0, "num_return_sequences": N}


@torch.inference_mode()
def stock(
    model: Any, engine: HFEngine, texts: list[str], at_a_time: int, tokens: int, **options: Any
) -> list[list[int]]:
    """What `generate` gives to each prompt, as token ids without padding."""
    engine.tokenizer.padding_side = "left"
    made: list[list[int]] = []
    for start in range(0, len(texts), at_a_time):
        inputs = engine.tokenizer(
            texts[start : start + at_a_time], return_tensors="pt", padding=True
        )
        out = model.generate(**inputs, max_new_tokens=tokens, **options)
        for row in out[:, inputs.input_ids.shape[1] :].tolist():
            ended = [at for at, token in enumerate(row) if token in engine.ends]
            made.append(row[: ended[0] + 1] if ended else row)
    return made


def paged(
    model: Any, ids: list[list[int]], together: int, tokens: int, ends: list[int], **options: Any
) -> list[list[int]]:
    """What `generate_batch` gives to each prompt, given pages for all answers at a time."""
    rows = len(ids) * options.get("num_return_sequences", 1)
    pages = math.ceil((max(map(len, ids)) + tokens) / PAGE)
    made = model.generate_batch(
        ids,
        generation_config=GenerationConfig(
            max_new_tokens=tokens, eos_token_id=ends, pad_token_id=0, **options
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=rows * pages + 1,
            max_batch_tokens=together,
            max_requests_per_batch=rows,
        ),
    )
    if len(made) != rows:
        raise SystemExit("generate_batch gave up")
    return [one.generated_tokens for one in made.values()]


def rows(
    name: str, folder: Path, count: int, tokens: int, rounds: int, *, chat: bool
) -> Iterator[dict[str, Any]]:
    engine = HFEngine(folder, device="cpu")
    ends = engine.ends.tolist()
    # Two models: generate_batch sets another attention.
    plain, other = as_loaded(folder), as_loaded(folder)
    for length, target in TARGETS.items():
        texts = prompts(engine.tokenizer, count, length)
        texts = asked(engine.tokenizer, texts) if chat else texts
        ids = [engine.encode(text) for text in texts]
        greedy = [one.text for (one,) in engine.generate(texts, Sampling(max_tokens=tokens))]

        def said(made: list[list[int]]) -> list[str]:
            return [engine.tokenizer.decode(one, skip_special_tokens=True) for one in made]

        if said(stock(plain, engine, texts, 4, tokens, do_sample=False)) != greedy:
            raise SystemExit(f"{name}: a greedy answer differs")
        alike = said(paged(other, ids, TOGETHER[0], tokens, ends, do_sample=False))
        alike = sum(a == b for a, b in zip(alike, greedy, strict=True))

        def theirs(at_a_time: int, texts: list[str] = texts) -> int:
            return sum(map(len, stock(plain, engine, texts, at_a_time, tokens, **DRAWS)))

        def theirs_paged(together: int, ids: list[list[int]] = ids) -> int:
            return sum(map(len, paged(other, ids, together, tokens, ends, **DRAWS)))

        def ours(texts: list[str] = texts) -> int:
            answers = engine.generate(texts, Sampling(temperature=1.0, n=N, max_tokens=tokens))
            return sum(one.completion_tokens or 0 for made in answers for one in made)

        ours()  # warm
        some = texts[: max(AT_A_TIME)]
        sizes = [size for size in AT_A_TIME if size <= len(some)]
        best = ratio.fastest(sizes, lambda size, some=some: theirs(size, some))
        together = ratio.fastest(TOGETHER, lambda size, some=ids[:4]: theirs_paged(size, some))
        shape = {"prompts": count, "prompt_tokens": length, "max_tokens": tokens}
        claim = f"{N} samples a prompt of {length} tokens, {name}"
        yield ratio.race(
            claim,
            lambda best=best: theirs(best),
            ours,
            rounds=rounds,
            same=lambda a, b: abs(a - b) <= 0.25 * a,
            warm=False,
            target=target,
            prompts_at_a_time=best,
            **shape,
        )
        yield ratio.race(
            f"{claim}, against generate_batch",
            lambda together=together: theirs_paged(together),
            ours,
            rounds=max(1, rounds - 1),
            same=lambda a, b: abs(a - b) <= 0.25 * a,
            warm=False,
            tokens_at_a_time=together,
            equal_greedily=f"{alike} of {count}",
            **shape,
        )


def all_rows(told: argparse.Namespace) -> Iterator[dict[str, Any]]:
    how = told.tokens, told.rounds
    yield from rows(SHIPPED, seed_policy(), 4 * told.prompts, *how, chat=True)
    with tempfile.TemporaryDirectory() as folder:
        yield from rows(RANDOM, random_policy(Path(folder)), told.prompts, *how, chat=False)


@quiet()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--prompts",
        type=int,
        default=2,
        help="of the random model, 4 times as many of the shipped policy",
    )
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    told = parser.parse_args()
    ratio.publish(all_rows(told), told.out)


if __name__ == "__main__":
    main()
