"""Evaluation: lm-eval's own `hf` model against the engine behind `rlrf eval`, request by request.

    python bench/evaluate.py --out evaluate.json

Both answer the same `generate_until` requests greedily, as lm-eval gives them to a model: HFLM,
which is what `lm_eval run --model hf` runs, at the fastest of a few batch sizes, and `EngineLM`.
Zero-shot questions, and questions after the same eight solved examples of about 1,200 tokens.
Proven equal: every response.
"""

from __future__ import annotations

import argparse
import logging
import operator
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ratio
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from policies import RANDOM, SHIPPED, prompts, random_llama

import tasks
from harness.engines.hf import HFEngine
from harness.lm import EngineLM
from harness.schema import Message
from rlrf.quickstart import seed_policy

BATCHES = (1, 8, 32)
SHOTS = 1200  # tokens


def requests(asked: list[str], tokens: int, stop: list[str]) -> list[Instance]:
    options = {"until": stop, "do_sample": False, "max_gen_toks": tokens}
    return [
        Instance("generate_until", {}, (prompt, dict(options)), i) for i, prompt in enumerate(asked)
    ]


def shots(folder: Path) -> list[str]:
    """Solved examples, of about `SHOTS` tokens together."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    parts: list[str] = []
    for item in tasks.load("mini_gsm8k").items("train"):
        parts.append(f"Question: {item.prompt}\nAnswer: {item.reference['answer']}\n")
        if len(tokenizer.encode("\n".join(parts))) >= SHOTS:
            return parts
    raise SystemExit("there are too few train items")


def row(
    claim: str, folder: Path, asked: list[Instance], rounds: int, **details: Any
) -> dict[str, Any]:
    stock = {size: HFLM(str(folder), device="cpu", batch_size=size) for size in BATCHES}
    own = EngineLM(HFEngine(folder, device="cpu"))

    def answer(lm: Any) -> Callable[[], list[str]]:
        return lambda: lm.generate_until(asked, disable_tqdm=True)

    took = {}
    for size, lm in stock.items():
        started = time.perf_counter()
        answer(lm)()
        took[size] = time.perf_counter() - started
    best = min(took, key=took.__getitem__)
    return ratio.race(
        claim,
        answer(stock[best]),
        answer(own),
        rounds=rounds,
        same=operator.eq,
        requests=len(asked),
        batch_size=best,
        **details,
    )


def main() -> None:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--items", type=int, default=4, help="of the large model; 32 times for M0")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    told = parser.parse_args()
    small, many = seed_policy(), 32 * told.items
    engine = HFEngine(small, device="cpu")
    chat = [
        engine.render([Message(role="user", content=item.prompt)])
        for name in ("mini_gsm8k", "mini_factscore", "mini_just_eval")
        for item in tasks.load(name).items("gate")[: many // 3]
    ]
    with tempfile.TemporaryDirectory() as folder:
        big = random_llama(Path(folder) / "llama")
        plain = requests(prompts(big, 2 * told.items, 60), told.tokens, ["\n"])
        fewshot = requests(
            prompts(big, told.items, SHOTS + 60, shared=shots(big)), told.tokens, ["\n\n"]
        )
        made = [
            row(
                f"lm-eval requests, zero-shot, {SHIPPED}",
                small,
                requests(chat, 80, []),
                told.rounds,
                target=1.5,
            ),
            row(f"lm-eval requests, zero-shot, {RANDOM}", big, plain, told.rounds, target=1.5),
            row(f"lm-eval requests, 8-shot, {RANDOM}", big, fewshot, told.rounds, target=5.0),
        ]
    ratio.publish(made, told.out)


if __name__ == "__main__":
    main()
