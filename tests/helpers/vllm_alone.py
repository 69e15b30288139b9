"""Runs in vLLM's own environment: what `VLLMEngine` gives for one folder, as JSON on stdout.

PYTHONPATH=. .venv-vllm/bin/python tests/helpers/vllm_alone.py MODEL ADAPTER OTHER PROMPTS
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.engines import Pair, Sampling
from harness.engines.vllm import VLLMEngine

GREEDY = Sampling(max_tokens=24)
# More tokens in all than vLLM reads at a time (4,096).
MANY = [f"{number}. " + "She has 14 plums. " * 60 for number in range(64)]
# (context, continuation): choices of one question, equal ones, a text too long.
PAIRS: list[Pair] = [
    *[([40, 50, 60, 70], choice) for choice in ([80], [90], [80, 41, 42], [80, 41, 42])],
    ([7], [20, 21, 22, 23, 24]),
    ([30, 31] * 200, [32, 33]),
]
WARM = Sampling(temperature=1.0, top_p=0.9, max_tokens=24, n=4, seed=3)


def main(model: str, adapter: Path, other: Path, prompts: list[str]) -> dict[str, Any]:
    engine = VLLMEngine(model, max_batch=64, rank=8)
    done: list[int] = []

    def made(sampling: Sampling, asked: list[str] = prompts, **options: Any) -> Any:
        return [[asdict(c) for c in row] for row in engine.generate(asked, sampling, **options)]

    found = {
        "context": engine.context,
        "digest": engine.model_digest,
        "greedy": made(GREEDY),
        "thrice": made(replace(GREEDY, n=3), on_done=done.append),
        "done": done,
        "warm": made(WARM),
        "backwards": made(WARM, prompts[::-1]),
        "alone": made(replace(WARM, n=2), prompts[2:3]),
        "many": made(WARM, MANY),
        "some of many": made(WARM, MANY[20:24]),
        "other seed": made(replace(WARM, seed=4)),
        "stopped": made(replace(GREEDY, stop=("a", "o"))),
        "long": made(GREEDY, ["She has 14 plums. " * 100, "", "<|end|>"]),
    }
    engine.use(adapter)
    found |= {"adapter digest": engine.model_digest, "adapted": made(GREEDY)}
    engine.use(other)
    found["other adapted"] = made(GREEDY)
    engine.use(None)
    found["base again"] = made(GREEDY)
    engine.use(adapter)
    found["adapted again"] = made(GREEDY)
    try:
        made(Sampling(max_tokens=engine.context))
    except UserError as error:
        found["refused"] = str(error)
    try:
        engine.loglikelihood(PAIRS)
    except UserError as error:
        found["refused likelihoods"] = str(error)
    engine.release()
    found["likelihoods"] = VLLMEngine(model, max_batch=64).loglikelihood(PAIRS)
    return found


if __name__ == "__main__":
    told = main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))
    print(json.dumps(told))
