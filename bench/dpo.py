"""DPO steps against stock TRL's: how many times faster, and in how much memory.

    python bench/dpo.py --out dpo.json

Both sides are TRL's `DPOTrainer` on the same weights and batch, loss and gradients; stock TRL as
it comes, ours as `rlrf.objectives.dpo` makes it. They are the same if the losses agree to 1e-5 and
each parameter's gradient to 1e-4 of its length; in bfloat16, to 1e-2 and all gradients together to
5e-2 of their length, as each side rounds its own way. Models: the shipped policy, and a random
Qwen3 of 60 M parameters with a vocabulary of 32,000. A mix draws lengths by the quantiles of the
pairs that a quickstart run learned from, or of longer chats, prompts too. The reference's
log-probabilities are there on both sides, but for the rows that say "not precomputed". Memory is
what a step adds to a process of its own, at its peak. The last row is one training, against itself
with the reference's log-probabilities kept from before, of which it then computes none.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import peft
import torch
import transformers
import trl
from policies import RANDOM, SHIPPED, random_policy
from ratio import most_memory, publish, race
from trl import DPOConfig, DPOTrainer

from harness.engines.model_folder import Checkpoint
from rlrf.config import Device
from rlrf.objectives.dpo import ReferenceLogps, dpo, prepare_shared_prompts, trainer_class
from rlrf.objectives.job import Job
from rlrf.pairs import Pair
from rlrf.quickstart import M0
from rlrf.quiet import quiet
from rlrf.training_config import Training

# Quantiles 0, .1, .5, .9 and 1 of the lengths of prompt, chosen and rejected.
MIXES = {
    "quickstart": ((8, 8, 14, 47, 52), (7, 32, 38, 56, 61), (6, 7, 16, 48, 57)),
    "chat": ((40, 60, 140, 260, 300), (10, 20, 45, 75, 90), (8, 15, 40, 75, 90)),
}
NAMES = {"m0": SHIPPED, "60M": RANDOM}
SMALLEST_VOCABULARY = 1000
Rows = list[dict[str, list[int]]]
Gradients = tuple[float, list[torch.Tensor]]


class Stock(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer, given token ids."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


@dataclass(frozen=True)
class Case:
    """What a step is done with: passes it accumulates, an adapter, a dtype, its reference."""

    model: str
    passes: int = 1
    lora: bool = False
    bf16: bool = False
    precomputed: bool = True  # the reference's log-probabilities; stock TRL alone goes without


@functools.cache
def large() -> tempfile.TemporaryDirectory[str]:
    """The folder of the 60 M model, where stock TRL finds a reference of its own."""
    folder = tempfile.TemporaryDirectory()
    random_policy(Path(folder.name))
    return folder


def load(case: Case) -> Any:
    folder = large().name if case.model == "60M" else M0
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    if not case.lora:
        return model
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    adapted = peft.get_peft_model(model, config)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:  # zero at first, so that lora_A would get no gradient
            torch.nn.init.normal_(weight, std=0.02)
    return adapted


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
def step(side: str, case: Case, rows: Rows) -> Callable[[], Gradients]:
    """A step on `rows`: loss and gradients."""
    model, made = load(case), Stock
    if side == "ours":
        made = trainer_class(
            ReferenceLogps(None, ""), prepare_shared_prompts(model), lambda _: None
        )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = made(
            model=model,
            args=DPOConfig(
                output_dir=scratch,
                per_device_train_batch_size=len(rows),
                precompute_ref_log_probs=case.precomputed or side == "ours",
                max_length=1024,
                bf16=False,  # what TRL does with it is autocast, here as below
                gradient_checkpointing=False,
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=transformers.AutoTokenizer.from_pretrained(M0),
        )
    if side == "ours":
        trainer.read_reference(model)
    each = len(rows) // case.passes
    known = list(trainer.train_dataset)
    batches = [
        trainer.data_collator(known[at : at + each]) for at in range(0, each * case.passes, each)
    ]

    def run() -> Gradients:
        model.train()
        model.zero_grad()
        total = 0.0
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=case.bf16):
                loss = trainer.compute_loss(model, dict(batch)) / case.passes
            loss.backward()
            total += loss.item()
        return total, [one.grad for one in model.parameters() if one.grad is not None]

    return run


def same(theirs: Gradients, ours: Gradients) -> bool:
    return abs(theirs[0] - ours[0]) <= 1e-5 and all(
        (one - other).norm() <= 1e-4 * one.norm()
        for one, other in zip(theirs[1], ours[1], strict=True)
    )


def same_in_bf16(theirs: Gradients, ours: Gradients) -> bool:
    one, other = (torch.cat([x.flatten() for x in side[1]]) for side in (theirs, ours))
    return abs(theirs[0] - ours[0]) <= 1e-2 and bool((one - other).norm() <= 5e-2 * one.norm())


def speed(claim: str, case: Case, rows: Rows, rounds: int, **details: Any) -> dict[str, Any]:
    return race(
        f"DPO step, {claim}, {NAMES[case.model]}",
        *(step(side, case, rows) for side in ("stock", "ours")),
        rounds=rounds,
        same=same_in_bf16 if case.bf16 else same,
        pairs=len(rows),
        **details,
    )


def peak(side: str, model: str, prompt: int, pairs: int) -> float:
    """MiB that a step adds to this process."""
    run = step(side, Case(model), draw([(prompt, 64, 64)] * pairs))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    run()
    return most_memory() - pages * os.sysconf("SC_PAGE_SIZE") / 2**20


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
    return {
        "claim": f"memory of a DPO step, {prompt}/64, {NAMES[model]}",
        "ratio": found["stock"] / found["ours"],
        "low": None,
        "high": None,
        "theirs_mib": round(found["stock"]),
        "ours_mib": round(found["ours"]),
        "target": 1.0,
        "rounds": 1,
        "pairs": pairs,
    }


def kept(rounds: int) -> dict[str, Any]:
    """A training of the shipped policy, and the same with its reference's answers at hand.

    Raises:
        SystemExit: the second computes any of them again.
    """
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
            job = Job(
                start=Checkpoint("M0", M0),
                config=Training(learning_rate=1e-4, max_length=400),
                adapter=None,
                device=Device(device="cpu"),
                seed=0,
                out=Path(out),
                references=references,
            )
            dpo(pairs, job)
            return b"".join(one.read_bytes() for one in sorted(Path(out).rglob("*.safetensors")))

    computed: list[int] = []
    ask = trl.DPOTrainer.compute_ref_log_probs

    def counted(trainer: Any, model: Any, inputs: Any) -> Any:
        computed.append(len(inputs["input_ids"]))
        return ask(trainer, model, inputs)

    def again(folder: Path) -> bytes:
        before = len(computed)
        made = train(folder)
        if len(computed) > before:
            raise SystemExit("a second run over unchanged pairs asks the reference again")
        return made

    trl.DPOTrainer.compute_ref_log_probs = counted
    try:
        with tempfile.TemporaryDirectory() as folder:
            train(Path(folder))
            if sum(computed) != 2 * len(pairs):
                raise SystemExit("the first run does not ask the reference once about each text")
            return race(
                f"DPO training, the second computes no reference, {SHIPPED}",
                lambda: train(None),
                lambda: again(Path(folder)),
                rounds=rounds,
                same=bytes.__eq__,
                warm=False,
                pairs=len(pairs),
            )
    finally:
        trl.DPOTrainer.compute_ref_log_probs = ask


def all_rows(told: argparse.Namespace) -> Iterator[dict[str, Any]]:
    cases = [("m0", 8, told.rounds), ("60M", told.large_pairs, told.large_rounds)]
    for model, pairs, rounds in cases:
        for prompt in told.prompts:
            aim = {"target": 2.0} if prompt == 256 else {}
            batch = draw([(prompt, 64, 64)] * pairs)
            yield speed(f"{prompt}/64", Case(model), batch, rounds, **aim)
    for mix in MIXES:
        yield speed(f"{mix} mix", Case("m0"), mixed(mix, 16), told.rounds, target=1.5)
    chat = mixed("chat", 2 * told.large_pairs)
    yield speed("chat mix", Case("60M"), chat, told.large_rounds, target=1.5)
    some = draw([(256, 64, 64)] * 8)
    for claim, case, rows in (
        ("256/64, not precomputed", Case("m0", precomputed=False), some),
        ("256/64, LoRA", Case("m0", lora=True), some),
        ("256/64, two passes accumulated", Case("m0", passes=2), some),
        ("chat mix, two passes accumulated", Case("m0", passes=2), mixed("chat", 16)),
        ("256/64, bfloat16", Case("m0", bf16=True), some),
    ):
        yield speed(claim, case, rows, told.rounds)
    some = draw([(256, 64, 64)] * told.large_pairs)
    for claim, case in (
        ("256/64, not precomputed", Case("60M", precomputed=False)),
        ("256/64, LoRA", Case("60M", lora=True)),
        ("256/64, bfloat16", Case("60M", bf16=True)),
    ):
        yield speed(claim, case, some, told.large_rounds)
    for model, pairs, _ in cases:
        yield memory(model, 256, pairs)
    yield kept(told.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of the shipped policy")
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
    publish(all_rows(told), told.out)


if __name__ == "__main__":
    main()
