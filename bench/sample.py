"""The script that a user would write to sample from a model: `generate`, batch by batch.

    python bench/sample.py --model M0 --prompts prompts.jsonl --n 8 --out answers.jsonl

Each line of PROMPTS has a `prompt`, and `most`, the tokens that its answer may have. Prompts are
asked in their order, those of one length limit together.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(folder: Path) -> tuple[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), tokenizer


@torch.inference_mode()
def sample(
    model: Any,
    tokenizer: Any,
    asked: list[dict[str, Any]],
    *,
    n: int,
    batch: int,
    temperature: float,
) -> list[list[str]]:
    """`n` answers to each prompt, `batch` rows at a time."""
    answers = []
    at_a_time = max(1, batch // n)
    for longest, alike in itertools.groupby(asked, key=lambda one: one["most"]):
        prompts = [one["prompt"] for one in alike]
        for start in range(0, len(prompts), at_a_time):
            inputs = tokenizer(
                prompts[start : start + at_a_time],
                return_tensors="pt",
                padding=True,
                add_special_tokens=False,
            )
            made = model.generate(
                **inputs,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                max_new_tokens=longest,
                num_return_sequences=n,
            )
            texts = tokenizer.batch_decode(
                made[:, inputs.input_ids.shape[1] :], skip_special_tokens=True
            )
            answers += [texts[i : i + n] for i in range(0, len(texts), n)]
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--n", type=int, default=1)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--out", type=Path, required=True)
    told = parser.parse_args()
    asked = [json.loads(line) for line in told.prompts.read_text().splitlines()]
    answers = sample(
        *load(told.model), asked, n=told.n, batch=told.batch, temperature=told.temperature
    )
    told.out.write_text("".join(json.dumps(one) + "\n" for one in answers))


if __name__ == "__main__":
    main()
