"""Log-likelihoods: stock lm-eval's `hf` model against the engine behind `rlrf eval`.

    python bench/loglikelihood.py --out loglikelihood.json
    python bench/loglikelihood.py --model FOLDER      # and a model of your own

Both answer the same `loglikelihood` requests, as lm-eval gives them to a model: HFLM, which is what
`lm_eval run --model hf` runs, at the fastest of a few batch sizes, and `EngineLM`. Questions with
four choices of several tokens, zero-shot and after five worked examples that all questions share,
and questions whose choices are letters. Proven equal: every log-probability to 1e-4, what is greedy
of them, and so which choice wins.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ratio
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from policies import RANDOM, random_policy

import tasks
from harness.engines import Likelihood
from harness.engines.hf import HFEngine
from harness.evals.lm import EngineLM

BATCHES = (2, 8, 32)
CHOICES = 4
SHOTS = 5
TOLERANCE = 1e-4
LETTERS = "ABCD"


def requests(items: int, shots: int, letters: bool) -> list[Instance]:
    """Ask `items` questions of the embedded world for the first step of their answers."""
    known = tasks.load("mini_gsm8k").items("train")
    steps = [item.reference["answer"].partition("\n")[0] for item in known]

    def asked(number: int) -> tuple[str, list[str]]:
        # The right step is the first choice; the others are those of the questions after it.
        choices = [steps[number + other] for other in range(CHOICES)]
        text = f"Question: {known[number].prompt}\n"
        if letters:
            text += "".join(f"{a}. {c}\n" for a, c in zip(LETTERS, choices, strict=True))
            choices = list(LETTERS)
        return f"{text}First step:", [f" {choice}" for choice in choices]

    examples = "".join(
        f"{context}{choices[0]}\n\n" for context, choices in map(asked, range(items, items + shots))
    )
    return [
        Instance("loglikelihood", {}, (examples + context, choice), number)
        for number, (context, choices) in enumerate(map(asked, range(items)))
        for choice in choices
    ]


def same(theirs: Sequence[Likelihood], ours: Sequence[Likelihood]) -> bool:
    """Whether all values are equal to `TOLERANCE`, and the same choices are greedy and win."""

    def best(side: Sequence[Likelihood]) -> list[int]:
        values = [value for value, _ in side]
        starts = range(0, len(values), CHOICES)
        return [max(range(CHOICES), key=values[at : at + CHOICES].__getitem__) for at in starts]

    return best(theirs) == best(ours) and all(
        abs(one - other) <= TOLERANCE and greedy == also
        for (one, greedy), (other, also) in zip(theirs, ours, strict=True)
    )


def row(claim: str, folder: Path, given: list[Instance], rounds: int, **aim: Any) -> dict[str, Any]:
    stock = {
        size: HFLM(str(folder), device="cpu", dtype="float32", batch_size=size) for size in BATCHES
    }
    own = EngineLM(HFEngine(folder, device="cpu", dtype="float32"))

    def answer(lm: Any) -> Callable[[], list[Likelihood]]:
        return lambda: lm.loglikelihood(given, disable_tqdm=True)

    answer(own)()  # warm
    best = ratio.fastest(BATCHES, lambda size: answer(stock[size])())
    return ratio.race(
        claim,
        answer(stock[best]),
        answer(own),
        rounds=rounds,
        same=same,
        warm=False,
        requests=len(given),
        batch_size=best,
        **aim,
    )


def rows(told: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        models = {RANDOM: random_policy(Path(folder) / "random")}
        models |= {model.name: model for model in told.model}
        for name, model in models.items():
            for shots, letters, aim in ((0, False, 2.0), (SHOTS, False, 5.0), (0, True, None)):
                kind = "letters" if letters else "choices"
                yield row(
                    f"log-likelihoods of {CHOICES} {kind}, {shots}-shot, {name}",
                    model,
                    requests(told.items, shots, letters),
                    told.rounds,
                    **({"target": aim} if aim else {}),
                )


def main() -> None:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--items", type=int, default=12, help="questions")
    parser.add_argument("--model", type=Path, action="append", default=[], help="a model's folder")
    parser.add_argument("--rounds", type=int, default=2)
    told = parser.parse_args()
    ratio.publish(rows(told), told.out)


if __name__ == "__main__":
    main()
