"""Evaluation: stock lm-eval's `hf` model against the engine behind `rlrf eval`.

    python bench/evaluate.py --out evaluate.json

First the requests alone: both answer the same `generate_until` requests greedily, as lm-eval gives
them to a model: HFLM, which is what `lm_eval run --model hf` runs, at the fastest of a few batch
sizes, and `EngineLM`. Zero-shot questions, and questions after the same solved examples. Then the
commands as they are typed, from start to end. Proven equal: every response.
"""

from __future__ import annotations

import argparse
import logging
import operator
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ratio
from commands import lm_eval_answers, type_in
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from policies import GROWN, RANDOM, SHIPPED, asked, grown, prompts, random_policy

import tasks
from harness.engines.hf import HFEngine
from harness.evals import evaluation
from harness.evals.lm import EngineLM
from rlrf.quickstart import seed_policy

BATCHES = (4, 32, 128)
TASKS = ("mini_factscore", "mini_gsm8k", "mini_just_eval")
SHOTS = {RANDOM: 1200, SHIPPED: 400}  # tokens; the shipped policy's context is 512


def requests(texts: list[str], tokens: int, stop: list[str]) -> list[Instance]:
    options = {"until": stop, "do_sample": False, "max_gen_toks": tokens}
    return [
        Instance("generate_until", {}, (prompt, dict(options)), i) for i, prompt in enumerate(texts)
    ]


def solved(tokenizer: Any, tokens: int) -> list[str]:
    """Solved examples, of about `tokens` tokens together."""
    parts: list[str] = []
    for item in tasks.load("mini_gsm8k").items("train"):
        parts.append(f"Question: {item.prompt}\nAnswer: {item.reference['answer']}\n")
        if len(tokenizer.encode("\n".join(parts))) >= tokens:
            return parts
    raise SystemExit("there are too few train items")


def row(
    claim: str, folder: Path, given: list[Instance], rounds: int, **details: Any
) -> dict[str, Any]:
    sizes = [size for size in BATCHES if size <= max(len(given), BATCHES[0])]
    stock = {size: HFLM(str(folder), device="cpu", batch_size=size) for size in sizes}
    own = EngineLM(HFEngine(folder, device="cpu"))

    def answer(lm: Any, given: list[Instance] = given) -> Callable[[], list[str]]:
        return lambda: lm.generate_until(given, disable_tqdm=True)

    answer(own)()  # warm
    best = ratio.fastest(sizes, lambda size: answer(stock[size], given[: max(sizes)])())
    return ratio.race(
        claim,
        answer(stock[best]),
        answer(own),
        rounds=rounds,
        same=operator.eq,
        warm=False,
        requests=len(given),
        batch_size=best,
        **details,
    )


def commands(items: int, rounds: int) -> dict[str, Any]:
    """`lm_eval run` and `rlrf eval`, as a user types them, on three tasks of the shipped policy."""
    policy = seed_policy()

    def theirs() -> dict[str, list[str]]:
        with tempfile.TemporaryDirectory() as folder:
            type_in(
                *("lm_eval", "run", "--model", "hf"),
                *("--model_args", f"pretrained={policy},dtype=float32", "--device", "cpu"),
                *("--include_path", tasks.FOLDER, "--tasks", ",".join(TASKS)),
                *("--apply_chat_template", "--limit", items, "--batch_size", BATCHES[-1]),
                *("--output_path", folder, "--log_samples"),
            )
            return lm_eval_answers(Path(folder), TASKS)

    def ours() -> dict[str, list[str]]:
        with tempfile.TemporaryDirectory() as folder:
            type_in(
                *("rlrf", "eval", "--model", policy, "--tasks", ",".join(TASKS)),
                *("--limit", items),
                *("--device", "cpu", "--dtype", "float32", "--out", folder),
            )
            return {
                name: [sample.response for sample in found.samples]
                for name, found in evaluation.load(Path(folder)).items()
            }

    return ratio.race(
        f"`lm_eval run --model hf` against `rlrf eval`, {SHIPPED}",
        theirs,
        ours,
        rounds=rounds,
        same=operator.eq,
        warm=False,
        items=items * len(TASKS),
        batch_size=BATCHES[-1],
    )


def rows(told: argparse.Namespace) -> Iterator[dict[str, Any]]:
    small, many = seed_policy(), 32 * told.items
    engine = HFEngine(small, device="cpu")
    chat = asked(
        engine.tokenizer,
        [
            item.prompt
            for name in TASKS
            for item in tasks.load(name).items("gate")[: many // len(TASKS)]
        ],
    )
    shots = {name: solved(engine.tokenizer, length) for name, length in SHOTS.items()}

    def fewshot(name: str, count: int) -> list[str]:
        return prompts(engine.tokenizer, count, SHOTS[name] + 60, shared=shots[name])

    def claim(name: str) -> str:
        return f"lm-eval requests, {len(shots[name])}-shot ({SHOTS[name]:,} tokens), {name}"

    yield row(
        f"lm-eval requests, zero-shot, {SHIPPED}",
        small,
        requests(chat, 80, []),
        told.rounds,
        target=1.5,
    )
    few = asked(engine.tokenizer, fewshot(SHIPPED, many // 2))
    yield row(claim(SHIPPED), small, requests(few, 40, []), told.rounds, target=5.0)
    with tempfile.TemporaryDirectory() as folder:
        # A random model's answers never end, so that no row would leave early.
        given = requests(chat[:: 32 // 6], 80, [])
        large = grown(Path(folder) / "grown")
        yield row(f"lm-eval requests, zero-shot, {GROWN}", large, given, told.rounds, target=1.5)
        big = random_policy(Path(folder) / "random")
        given = requests(fewshot(RANDOM, 3 * told.items), told.tokens, ["\n\n"])
        yield row(claim(RANDOM), big, given, told.rounds, target=5.0)
    yield commands(8 * told.items, told.rounds)


def main() -> None:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--items", type=int, default=4, help="32 times as many for M0")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    told = parser.parse_args()
    ratio.publish(rows(told), told.out)


if __name__ == "__main__":
    main()
