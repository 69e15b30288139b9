"""DPO steps against stock TRL's: how many times faster, and in how much memory.

OMP_NUM_THREADS=1 .venv/bin/python bench/dpo.py

Both sides are TRL's `DPOTrainer` on the same weights and batch, loss and gradients; stock TRL as
it comes, ours as `rlrf.training.dpo` makes it. They are the same if the losses agree to 1e-5 and
each parameter's gradient to 1e-4 of its length. Models: the shipped policy, and a random Qwen3 of
60 M parameters with a vocabulary of 32,000. A mix draws lengths by the quantiles of the pairs that
a quickstart run learned from, or of longer chats. Memory is what a step adds to a process of its
own, at its peak. The last row is one training, against itself with the reference's
log-probabilities kept from before.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from ratio import publish, race
from trl import DPOConfig, DPOTrainer

from rlrf.checkpoint import Checkpoint
from rlrf.config import Device, Training
from rlrf.pairs import Pair
from rlrf.quickstart import M0
from rlrf.quiet import quiet
from rlrf.training.dpo import dpo, share_prompts, trainer_class
from rlrf.training.reference import ReferenceLogps

# Quantiles 0, .1, .5, .9 and 1 of the lengths of prompt, chosen and rejected.
MIXES = {
    "quickstart": ((8, 8, 14, 47, 52), (7, 32, 38, 56, 61), (6, 7, 16, 48, 57)),
    "chat": ((40, 60, 140, 260, 300), (10, 20, 45, 75, 90), (8, 15, 40, 75, 90)),
}
SMALLEST_VOCABULARY = 1000
Rows = list[dict[str, list[int]]]
Gradients = tuple[float, list[torch.Tensor]]


class Stock(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer, given token ids."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


def load(name: str) -> Any:
    if name == "m0":
        return transformers.AutoModelForCausalLM.from_pretrained(M0, dtype="float32")
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=32_000,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=14,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    return transformers.Qwen3ForCausalLM(config)


def draw(lengths: Any) -> Rows:
    """Pairs of random tokens; `lengths` has a row (prompt, chosen, rejected) a pair."""
    rng = np.random.default_rng(0)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [
        {
            name: rng.integers(3, SMALLEST_VOCABULARY, size).tolist()
            for name, size in zip(names, of_pair, strict=True)
        }
        for of_pair in lengths
    ]


def mixed(name: str, pairs: int) -> Rows:
    rng = np.random.default_rng(0)
    columns = [
        np.interp(rng.uniform(size=pairs), (0, 0.1, 0.5, 0.9, 1), of_part).astype(int)
        for of_part in MIXES[name]
    ]
    return draw(np.stack(columns, 1))


@quiet()
def step(side: str, model: Any, rows: Rows) -> Callable[[], Gradients]:
    """A step on `rows`: loss and gradients."""
    made: Any = Stock
    if side == "ours":
        made = trainer_class(ReferenceLogps(None, ""), share_prompts(model), lambda _: None)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = made(
            model=model,
            args=DPOConfig(
                output_dir=scratch,
                per_device_train_batch_size=len(rows),
                precompute_ref_log_probs=True,
                max_length=1024,
                bf16=False,
                gradient_checkpointing=False,
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=transformers.AutoTokenizer.from_pretrained(M0),
        )
    batch = trainer.data_collator(list(trainer.train_dataset))

    def run() -> Gradients:
        model.train()
        model.zero_grad()
        loss = trainer.compute_loss(model, dict(batch))
        loss.backward()
        return loss.item(), [one.grad for one in model.parameters()]

    return run


def same(theirs: Gradients, ours: Gradients) -> bool:
    return abs(theirs[0] - ours[0]) <= 1e-5 and all(
        (one - other).norm() <= 1e-4 * one.norm()
        for one, other in zip(theirs[1], ours[1], strict=True)
    )


def speed(claim: str, model: str, rows: Rows, rounds: int) -> dict[str, Any]:
    sides = [step(side, load(model), rows) for side in ("stock", "ours")]
    claim = f"DPO step, {claim}, {model}"
    return race(claim, *sides, rounds=rounds, same=same, pairs=len(rows))


def peak(side: str, model: str, prompt: int, pairs: int) -> float:
    """MiB that a step adds to this process."""
    run = step(side, load(model), draw([(prompt, 64, 64)] * pairs))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    run()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1024 - pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory(model: str, prompt: int, pairs: int) -> dict[str, Any]:
    found = {}
    for side in ("stock", "ours"):
        case = [str(word) for word in (side, model, prompt, pairs)]
        done = subprocess.run(
            [sys.executable, __file__, "--peak", *case],
            stdout=subprocess.PIPE,
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        found[side] = float(json.loads(done.stdout))
    ratio = found["stock"] / found["ours"]
    return {
        "claim": f"memory of a DPO step, {prompt}/64, {model}",
        **dict.fromkeys(("ratio", "low", "high"), ratio),
        "theirs_mib": round(found["stock"]),
        "ours_mib": round(found["ours"]),
        "rounds": 1,
        "pairs": pairs,
    }


def kept(rounds: int) -> dict[str, Any]:
    """A training of the shipped policy, and the same with its reference's answers at hand."""
    words = "the answer is 7 and you can check it ".split()
    pairs = [
        Pair(
            task="bench",
            item=str(i),
            index=i,
            prompt=" ".join(words[k % 9] for k in range(i, i + 40)),
            chosen=" ".join(words[k % 7] for k in range(i, i + 20)),
            rejected=" ".join(words[k % 5] for k in range(i, i + 15)),
            gap=1.0,
            similarity=0.0,
            chosen_origin="explored",
            rejected_origin="explored",
            rejected_cut=False,
        )
        for i in range(64)
    ]

    def train(references: Path | None) -> bytes:
        with tempfile.TemporaryDirectory() as out:
            dpo(
                pairs,
                Checkpoint("M0", M0),
                Training(learning_rate=1e-4, max_length=400),
                adapter=None,
                device=Device(device="cpu"),
                seed=0,
                out=Path(out),
                references=references,
            )
            return b"".join(one.read_bytes() for one in sorted(Path(out).rglob("*.safetensors")))

    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder))
        return race(
            "DPO training, reference kept, m0",
            partial(train, None),
            partial(train, Path(folder)),
            rounds=rounds,
            same=bytes.__eq__,
            pairs=len(pairs),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="of the shipped policy")
    parser.add_argument("--large-rounds", type=int, default=2, help="of the 60 M model")
    parser.add_argument("--large-pairs", type=int, default=1, help="a step of the 60 M model")
    parser.add_argument("--prompts", type=int, nargs="+", default=[128, 256, 384])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    told = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    if told.peak:
        side, model, prompt, pairs = told.peak
        print(json.dumps(peak(side, model, int(prompt), int(pairs))))
        return
    cases = [("m0", 8, told.rounds), ("60M", told.large_pairs, told.large_rounds)]
    rows = [
        speed(f"{prompt}/64", model, draw([(prompt, 64, 64)] * pairs), rounds)
        for model, pairs, rounds in cases
        for prompt in told.prompts
    ]
    rows += [speed(f"{mix} mix", "m0", mixed(mix, 16), told.rounds) for mix in MIXES]
    rows += [memory(model, 256, pairs) for model, pairs, _ in cases]
    rows.append(kept(told.rounds))
    publish(rows, told.out)


if __name__ == "__main__":
    main()
