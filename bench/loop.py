"""A whole RLRF iteration against the loop that a user would script, on the same work.

    python bench/loop.py --out loop.json
    python bench/loop.py --more --out loop_more.json
    python bench/loop.py --stages --out loop_stages.json

*As commands*: `rlrf train` against `sample.py` (twice), `trl dpo` and `lm_eval run` (of M0 and M1),
each a process as a user starts it; `--more` has longer prompts and a larger policy. *In one
process* (`--stages`): the same libraries with the models at hand, stage by stage, each at the
better of two batch sizes (the larger policy at one), so that no more than work is compared. M1 is
ours on both sides. Feedback and pairs are no work of the script, which gets ours for nothing; in
one process what it does not have costs it what it costs here. The same prompts and as many answers
are explored and rewritten, the same pairs trained on (the reference precomputed, as here), the same
items evaluated. Proven equal: M0's and M1's greedy answers to every item, and the training losses
to 1e-4. Sampled answers differ, by their seeds.

Policies: the shipped one, and the same grown to 62 M parameters with zeros. Prompts: those of the
embedded world (7 to 45 tokens), and with passages before them, pages of its encyclopedia: the
policy was not taught to read those, answers worse and learns something else, at the same cost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ratio
import sample
from commands import lm_eval_answers, type_in
from datasets import Dataset
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from passages import with_passages
from policies import GROWN, SHIPPED, grown, roomy
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

import tasks as benchmarks
from harness.core.files import read_records, write_json, write_jsonl
from harness.core.log import say
from harness.core.schema import Sample, digest
from harness.evals import evaluation
from rlrf.config import Config
from rlrf.loop import train
from rlrf.pairs import Pair
from rlrf.quickstart import seed_policy
from rlrf.quiet import quiet
from rlrf.reflect import Refinement
from rlrf.run import RECORDS

BATCHES = (64, 256)  # rows that the script generates at a time
LONGEST = 120  # tokens of an answer
CONTEXT = 1024  # tokens that a policy with passages to read has room for
STAGES = {
    "explore": ("explore",),
    "reflect": ("reflect",),
    "train": ("train",),
    "evaluate": ("evaluate_M0", "evaluate_M1"),
}
DPO = {
    "learning_rate": 1e-4,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "warmup_steps": 0.1,
    "precompute_ref_log_probs": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "seed": int(digest([0, 1, "train"])[:7], 16),  # the order of our batches
}


@dataclass(frozen=True)
class Case:
    """An iteration: of which policy, on how many items a task, with passages up to which length."""

    name: str
    policy: Path
    items: int
    passages: int = 0

    @property
    def config(self) -> Config:
        """One iteration of the embedded world's loop; the sealed split is one item a task."""
        names = ("mini_gsm8k", "mini_factscore", "mini_just_eval")
        return Config.model_validate(
            {
                "model": str(self.policy),
                "iterations": 1,
                "tasks": [{"name": name, "prompts": self.items} for name in names],
                "explore": {"n": 8, "max_tokens": LONGEST},
                "reflect": {"m": 2, "temperature": 0.7, "max_tokens": LONGEST},
                "train": {
                    "learning_rate": DPO["learning_rate"],
                    "batch_size": DPO["per_device_train_batch_size"],
                    "max_length": self.max_length,
                },
                "gate": {"slice": self.items, "sealed": 1},
                "engine": {"device": "cpu"},
            }
        )

    @property
    def max_length(self) -> int:
        return self.passages + 400

    def type_in(self, *words: object) -> str:
        """Run a command, in a world with such passages."""
        if not self.passages:
            return type_in(*words)
        return type_in("python", Path(__file__).with_name("passages.py"), self.passages, *words)


@dataclass(frozen=True)
class Done:
    """An iteration that is done, and whose work the script is given to do again."""

    case: Case
    run: Path

    @property
    def iteration(self) -> Path:
        return self.run / "iter_1"

    @property
    def explored(self) -> tuple[list[dict[str, Any]], int]:
        """The prompts, and how often each was answered."""
        samples = read_records(self.iteration / "explore" / RECORDS, Sample)
        n = 1 + max(sample.repeat for sample in samples)
        return [to_ask(sample) for sample in samples if sample.repeat == 0], n

    @property
    def prompt_tokens(self) -> int:
        """Of the prompts explored, on average."""
        samples = read_records(self.iteration / "explore" / RECORDS, Sample)
        return round(np.mean([one.prompt_tokens for one in samples if one.prompt_tokens]))

    @property
    def rewritten(self) -> list[dict[str, Any]]:
        refined = read_records(self.iteration / "reflect" / RECORDS, Refinement)
        return [to_ask(one.sample) for one in refined]

    @property
    def pairs(self) -> list[dict[str, str]]:
        pairs = read_records(self.iteration / "pairs" / "pairs.jsonl", Pair)
        return [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs]

    @property
    def models(self) -> dict[str, Path]:
        return {"M0": self.case.policy, "M1": self.iteration / "train/model"}

    @property
    def measured(self) -> dict[str, list[int]]:
        """Task -> the items that M0 and M1 are measured on."""
        found = evaluation.load(self.iteration / "evaluate_M0")
        return {name: [item.index for item in found[name].items] for name in sorted(found)}

    def answers(self, name: str) -> list[str]:
        """The greedy answers of a model to those, by task and item."""
        found = evaluation.load(self.iteration / f"evaluate_{name}")
        return [
            sample.response
            for task in sorted(found)
            for sample in sorted(found[task].samples, key=lambda one: one.index)
        ]

    @property
    def losses(self) -> list[float]:
        steps = (self.iteration / "train/metrics.jsonl").read_text().splitlines()
        return [json.loads(step)["loss"] for step in steps]

    def check(self, answers: dict[str, list[str]], losses: list[float], within: float) -> None:
        """Raises SystemExit where the script made something else."""
        for name, made in answers.items():
            if made != self.answers(name):
                sys.exit(f"the two sides' greedy answers of {name} differ")
        if len(losses) != len(self.losses) or not np.allclose(losses, self.losses, atol=within):
            sys.exit(f"the two sides' losses differ: {self.losses} here, {losses} of the script")


def to_ask(one: Sample) -> dict[str, Any]:
    return {"prompt": one.prompt, "most": LONGEST}


@dataclass
class InProcess:
    """The script's stages in this process, each timed."""

    done: Done
    batch: int
    seconds: dict[str, float] = field(default_factory=dict)

    def loop(self) -> None:
        model, tokenizer = sample.load(self.done.case.policy)
        asked, n = self.done.explored
        with self.timed("explore"):
            sample.sample(model, tokenizer, asked, n=n, batch=self.batch, temperature=1.0)
        asked = self.done.rewritten
        with self.timed("reflect"):
            sample.sample(model, tokenizer, asked, n=1, batch=self.batch, temperature=0.7)
        pairs, measured = self.done.pairs, self.done.measured
        with self.timed("train"):
            losses = self.train(model, tokenizer, pairs)
        del model
        with self.timed("evaluate"):
            models = self.done.models.items()
            answers = {name: self.evaluate(folder, measured) for name, folder in models}
        self.done.check(answers, losses, 1e-4)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - started

    def train(self, model: Any, tokenizer: Any, pairs: list[dict[str, str]]) -> list[float]:
        with tempfile.TemporaryDirectory() as scratch:
            trainer = DPOTrainer(
                model=model,
                args=DPOConfig(output_dir=scratch, max_length=self.done.case.max_length, **DPO),
                train_dataset=Dataset.from_list(pairs),
                processing_class=tokenizer,
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            trainer.save_model(scratch)
        return [row["loss"] for row in trainer.state.log_history if "loss" in row]

    def evaluate(self, folder: Path, measured: dict[str, list[int]]) -> list[str]:
        found = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(folder), "dtype": "float32"},
            tasks=list(measured),
            samples=measured,
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
            for name in measured
            for shown in sorted(found["samples"][name], key=lambda one: one["doc_id"])
        ]


def as_commands(done: Done, batch: int) -> float:
    """Seconds of the script's commands, one after the other."""
    case = done.case
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (explored, n), measured = done.explored, done.measured
        write_jsonl(folder / "prompts.jsonl", explored)
        write_jsonl(folder / "drafts.jsonl", done.rewritten)
        (folder / "pairs").mkdir()
        write_jsonl(folder / "pairs/train.jsonl", done.pairs)
        ask = ("python", Path(sample.__file__), "--model", case.policy, "--batch", batch)
        options = [f"--{name}={value}" for name, value in DPO.items()]
        answers = {}
        started = time.perf_counter()
        type_in(*ask, "--prompts", folder / "prompts.jsonl", "--n", n, "--out", folder / "a.jsonl")
        type_in(
            *(*ask, "--prompts", folder / "drafts.jsonl", "--temperature", 0.7),
            *("--out", folder / "b.jsonl"),
        )
        printed = type_in(
            *("trl", "dpo", "--model_name_or_path", case.policy, "--dtype", "float32"),
            *("--dataset_name", folder / "pairs", "--output_dir", folder / "M1"),
            *(f"--max_length={case.max_length}", *options),
        )
        for name, model in done.models.items():
            case.type_in(
                *("lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", batch),
                *("--model_args", f"pretrained={model},dtype=float32"),
                *("--include_path", benchmarks.FOLDER, "--tasks", ",".join(measured)),
                *("--samples", json.dumps(measured), "--apply_chat_template"),
                *("--output_path", folder / name, "--log_samples"),
            )
        seconds = time.perf_counter() - started
        for name in done.models:
            found = lm_eval_answers(folder / name, measured)
            answers[name] = [answer for task in measured for answer in found[task]]
    losses = [float(loss) for loss in re.findall(r"'loss': '([0-9.e-]+)'", printed)]
    done.check(answers, losses, 1e-3)  # printed with four digits
    return seconds


def commands(case: Case, rounds: int) -> Iterator[dict[str, Any]]:
    """`rlrf train` against the script's commands."""
    with tempfile.TemporaryDirectory() as place:
        file, done = Path(place) / "config.yaml", Done(case, Path(place) / "run")
        write_json(file, case.config.model_dump(exclude_defaults=True, mode="json"))
        seconds = []
        for number in range(rounds):
            started = time.perf_counter()
            case.type_in("rlrf", "train", file, "--out", done.run, "--fresh")
            ours = time.perf_counter() - started
            seconds.append((as_commands(done, BATCHES[-1]), ours))
            say(f"round {number + 1}: {seconds[-1][0]:.1f} s scripted, {ours:.1f} s here")
        length = done.prompt_tokens
    yield {
        "claim": f"`rlrf train` against the script's commands, prompts of {length} tokens, "
        f"{case.name}",
        **ratio.interval(seconds),
        **({"target": 3.0} if case.passages else {}),  # aims are for 128 and 384 tokens
        "prompts_a_task": case.items,
        "rounds": rounds,
    }


def ours(done: Done) -> dict[str, float]:
    """Seconds of each stage that both sides have, and of the whole iteration.

    The sealed split, which a run opens once at its end, is no part of an iteration.
    """

    def seconds(folder: Path) -> float:
        return float(json.loads((folder / "manifest.json").read_text())["seconds"])

    started = time.perf_counter()
    train(done.case.config, done.run, fresh=True)
    whole = time.perf_counter() - started
    whole -= sum(seconds(folder) for folder in (done.run / "sealed").iterdir())
    took = {
        stage: sum(seconds(done.iteration / part) for part in parts)
        for stage, parts in STAGES.items()
    }
    return took | {"whole": whole}


def stages(case: Case, rounds: int, batches: Sequence[int] = BATCHES) -> Iterator[dict[str, Any]]:
    """The whole iteration in one process, and its stages."""
    with tempfile.TemporaryDirectory() as place:
        done = Done(case, Path(place) / "run")
        seconds: dict[str, list[tuple[float, float]]] = {stage: [] for stage in STAGES}
        whole = []
        for number in range(1 + rounds):
            took = ours(done)
            if not number:
                continue  # warm
            scripts = [InProcess(done, batch) for batch in batches]
            for script in scripts:
                script.loop()
            theirs = {stage: min(one.seconds[stage] for one in scripts) for stage in STAGES}
            for stage in STAGES:
                seconds[stage].append((theirs[stage], took[stage]))
            # What the script does not have costs it what it costs here.
            rest = took["whole"] - sum(took[stage] for stage in STAGES)
            whole.append((sum(theirs.values()) + rest, took["whole"]))
            say(f"round {number}: {whole[-1][0]:.1f} s scripted, {whole[-1][1]:.1f} s here")
        length = done.prompt_tokens
    size = {"prompts_a_task": case.items, "prompt_tokens": length, "rounds": rounds}
    yield {
        "claim": f"an iteration in one process, prompts of {length} tokens, {case.name}",
        **ratio.interval(whole),
        **size,
    }
    for stage, found in seconds.items():
        yield {"claim": f"of that, {stage}", **ratio.interval(found), **size}


def all_rows(told: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if not told.more and not told.stages:
        yield from commands(Case(SHIPPED, seed_policy(), told.items), told.rounds)
        return
    with tempfile.TemporaryDirectory() as place:
        small, large = roomy(Path(place) / "small", CONTEXT), grown(Path(place) / "large", CONTEXT)
        if told.stages:
            with with_passages(128):
                yield from stages(Case(SHIPPED, small, told.items, 128), told.rounds)
                case = Case(GROWN, large, told.large_items, 128)
                yield from stages(case, told.rounds, BATCHES[:1])
            return
        cases = (
            Case(GROWN, large, told.large_items, 128),
            Case(SHIPPED, small, told.items, 128),
            Case(GROWN, large, 2 * told.large_items),
            Case(GROWN, large, told.large_items, 384),
            Case(SHIPPED, small, told.items, 384),
        )
        for case in cases:
            yield from commands(case, told.rounds)


@quiet()
def main() -> None:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--items", type=int, default=32, help="prompts and gate items a task")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--more", action="store_true", help="longer prompts, a larger policy")
    parser.add_argument("--stages", action="store_true", help="in one process, stage by stage")
    parser.add_argument("--large-items", type=int, default=4, help="of the grown policy")
    told = parser.parse_args()
    ratio.publish(all_rows(told), told.out)


if __name__ == "__main__":
    main()
