"""A whole RLRF iteration against the loop that a user would script, on the same work.

    python bench/loop.py --out loop.json

The script samples with `generate(num_return_sequences=n)`, rewrites with `generate`, trains with
stock TRL DPO (reference log-probabilities precomputed, as here) and evaluates M0 and M1 with stock
lm-eval, each at the best of a few batch sizes. Feedback and pairs are no work of either side: the
script gets ours for nothing. The same prompts and as many answers are explored and rewritten, the
same pairs trained on, the same items evaluated. Proven equal: M0's and M1's greedy answers to every
item, and the training losses to 1e-4. Sampled answers differ, by their seeds. Policies: the shipped
one, and the same grown to 62 M parameters with zeros, so that it explores, learns and answers as
the shipped one does at the cost of a larger model.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ratio
import torch
from datasets import Dataset
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from policies import GROWN, SHIPPED, grown
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import DPOConfig, DPOTrainer

import tasks as benchmarks
from harness import evaluation
from harness.progress import say
from harness.schema import Sample, digest
from harness.store import read_records
from rlrf.config import Config
from rlrf.loop import train
from rlrf.pairs import Pair
from rlrf.quickstart import seed_policy
from rlrf.quiet import quiet
from rlrf.reflect import Refinement
from rlrf.run import RECORDS

BATCHES = (64, 256)  # rows that the script generates at a time
STAGES = {
    "explore": ("explore",),
    "reflect": ("reflect",),
    "train": ("train",),
    "evaluate": ("evaluate_M0", "evaluate_M1"),
}


def configuration(start: Path, items: int) -> Config:
    """One iteration of the embedded world's loop; the sealed split is one item a task."""
    names = ("mini_gsm8k", "mini_factscore", "mini_just_eval")
    return Config.model_validate(
        {
            "model": str(start),
            "iterations": 1,
            "tasks": [{"name": name, "prompts": items} for name in names],
            "explore": {"n": 8},
            "reflect": {"m": 2, "temperature": 0.7},
            "train": {"learning_rate": 1e-4, "batch_size": 8, "max_length": 400},
            "gate": {"slice": items, "sealed": 1},
            "engine": {"device": "cpu"},
        }
    )


@dataclass
class Scripted:
    """The loop that a user would script, on the prompts, pairs and items of a finished run."""

    start: Path  # the policy
    run: Path
    batch: int
    seconds: dict[str, float] = field(default_factory=dict)
    answers: dict[str, list[str]] = field(default_factory=dict)  # model -> greedy answers
    losses: list[float] = field(default_factory=list)

    @property
    def iteration(self) -> Path:
        return self.run / "iter_1"

    def loop(self) -> None:
        """Explore, rewrite, train, evaluate; each timed."""
        model, tokenizer = self.load(self.start)
        explored = read_records(self.iteration / "explore" / RECORDS, Sample)
        rewritten = read_records(self.iteration / "reflect" / RECORDS, Refinement)
        n = 1 + max(sample.repeat for sample in explored)
        asked = [sample for sample in explored if sample.repeat == 0]
        with self.timed("explore"):
            self.generate(model, tokenizer, asked, n, temperature=1.0)
        with self.timed("reflect"):
            drafts = [one.sample for one in rewritten]
            self.generate(model, tokenizer, drafts, 1, temperature=0.7)
        with self.timed("train"):
            self.train(model, tokenizer)
        del model
        with self.timed("evaluate"):
            for name, folder in (("M0", self.start), ("M1", self.iteration / "train/model")):
                self.answers[name] = self.evaluate(folder)

    def timed(self, stage: str) -> Any:
        return _Timer(self.seconds, stage)

    @staticmethod
    def load(folder: Path) -> tuple[Any, Any]:
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), tokenizer

    @torch.inference_mode()
    def generate(
        self, model: Any, tokenizer: Any, asked: Sequence[Sample], n: int, *, temperature: float
    ) -> None:
        """`n` answers to each prompt, task by task, as each has its own length."""
        for name, samples in by_task(asked).items():
            longest = benchmarks.load(name).generation["max_tokens"]
            at_a_time = max(1, self.batch // n)
            for start in range(0, len(samples), at_a_time):
                prompts = [sample.prompt for sample in samples[start : start + at_a_time]]
                inputs = tokenizer(prompts, return_tensors="pt", padding=True)
                made = model.generate(
                    **inputs,
                    do_sample=True,
                    temperature=temperature,
                    top_k=0,
                    max_new_tokens=longest,
                    num_return_sequences=n,
                )
                tokenizer.batch_decode(made[:, inputs.input_ids.shape[1] :])

    def train(self, model: Any, tokenizer: Any) -> None:
        pairs = read_records(self.iteration / "pairs" / "pairs.jsonl", Pair)
        rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs]
        with tempfile.TemporaryDirectory() as scratch:
            trainer = DPOTrainer(
                model=model,
                args=DPOConfig(
                    output_dir=scratch,
                    learning_rate=1e-4,
                    num_train_epochs=1,
                    per_device_train_batch_size=8,
                    warmup_steps=0.1,
                    max_length=400,
                    precompute_ref_log_probs=True,
                    bf16=False,
                    gradient_checkpointing=False,
                    use_cpu=True,
                    logging_steps=1,
                    save_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                    seed=int(digest([0, 1, "train"])[:7], 16),  # the order of our batches
                ),
                train_dataset=Dataset.from_list(rows),
                processing_class=tokenizer,
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            trainer.save_model(scratch)
        self.losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]

    def evaluate(self, folder: Path) -> list[str]:
        """The greedy answers of a model to the items of the gate, by task and item."""
        gated = evaluation.load(self.iteration / "evaluate_M0")
        found = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(folder), "dtype": "float32"},
            tasks=sorted(gated),
            samples={name: [item.index for item in one.items] for name, one in gated.items()},
            task_manager=TaskManager(
                include_path=str(benchmarks.FOLDER), include_defaults=False, verbosity="ERROR"
            ),
            apply_chat_template=True,
            batch_size=self.batch,
            device="cpu",
            bootstrap_iters=0,
        )
        return [
            shown["filtered_resps"][0]
            for name in sorted(gated)
            for shown in sorted(found["samples"][name], key=lambda one: one["doc_id"])
        ]


class _Timer:
    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self.seconds, self.stage = seconds, stage

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.stage] = time.perf_counter() - self.started


def by_task(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.task, []).append(sample)
    return found


def ours(config: Config, run: Path) -> dict[str, float]:
    """Seconds of each stage that both sides have, and of the whole."""
    started = time.perf_counter()
    train(config, run, fresh=True)
    whole = time.perf_counter() - started
    took = {
        stage: sum(
            json.loads((run / "iter_1" / part / "manifest.json").read_text())["seconds"]
            for part in parts
        )
        for stage, parts in STAGES.items()
    }
    return took | {"whole": whole}


def greedy(run: Path, name: str) -> list[str]:
    """Our answers, in the same order."""
    found = evaluation.load(run / "iter_1" / f"evaluate_{name}")
    return [
        sample.response
        for task in sorted(found)
        for sample in sorted(found[task].samples, key=lambda one: one.index)
    ]


def same(run: Path, script: Scripted) -> Iterator[str]:
    """What is not equal on the two sides."""
    for name, answers in script.answers.items():
        if answers != greedy(run, name):
            yield f"{name}'s greedy answers"
    steps = (run / "iter_1/train/metrics.jsonl").read_text().splitlines()
    if len(steps) != len(script.losses):
        yield "the number of training steps"
    elif not np.allclose([json.loads(step)["loss"] for step in steps], script.losses, atol=1e-4):
        yield f"the losses, {[json.loads(step)['loss'] for step in steps]} and {script.losses}"


def rows(name: str, start: Path, items: int, rounds: int) -> Iterator[dict[str, Any]]:
    """The whole iteration of the policy `start`, and its stages."""
    config = configuration(start, items)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        ours(config, run)  # warm
        trials = [Scripted(start, run, batch) for batch in BATCHES]
        for trial in trials:
            trial.loop()
        best = {
            stage: min(trials, key=lambda one, stage=stage: one.seconds[stage]).batch
            for stage in STAGES
        }
        say(f"best batch sizes of the script: {best}")
        seconds: dict[str, list[tuple[float, float]]] = {stage: [] for stage in STAGES}
        whole = []
        for number in range(rounds):
            took = ours(config, run)
            rest = took["whole"] - sum(took[stage] for stage in STAGES)
            scripts = [Scripted(start, run, batch) for batch in sorted(set(best.values()))]
            for script in scripts:
                script.loop()
                for difference in same(run, script):
                    raise SystemExit(f"the two sides differ: {difference}")
            theirs = {
                stage: next(one for one in scripts if one.batch == batch).seconds[stage]
                for stage, batch in best.items()
            }
            for stage in STAGES:
                seconds[stage].append((theirs[stage], took[stage]))
            # What the script does not have costs it what it costs here.
            whole.append((sum(theirs.values()) + rest, took["whole"]))
            say(f"round {number + 1}: {whole[-1][0]:.1f} s scripted, {whole[-1][1]:.1f} s here")
    size = {"prompts_a_task": items, "rounds": rounds}
    yield {
        "claim": f"a whole RLRF iteration against a scripted loop, {name}",
        **ratio.interval(whole),
        "target": 3.0,
        **size,
    }
    for stage, found in seconds.items():
        yield {"claim": f"of that, {stage}, {name}", **ratio.interval(found), **size}


def all_rows(told: argparse.Namespace) -> Iterator[dict[str, Any]]:
    yield from rows(SHIPPED, seed_policy(), told.items, told.rounds)
    with tempfile.TemporaryDirectory() as folder:
        large = grown(Path(folder))
        yield from rows(GROWN, large, told.large_items, told.large_rounds)


@quiet()
def main() -> None:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--items", type=int, default=32, help="prompts and gate items a task")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large-items", type=int, default=3, help="of the grown policy")
    parser.add_argument("--large-rounds", type=int, default=2)
    told = parser.parse_args()
    ratio.publish(all_rows(told), told.out)


if __name__ == "__main__":
    main()
