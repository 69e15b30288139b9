"""What the rows need: preferences, reward models, demonstrations, a second policy to start from."""

from __future__ import annotations

import random
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import rows

from harness.core.files import write_jsonl
from harness.engines.model_folder import Checkpoint
from rlrf.config import Device
from rlrf.models.reward.rewarder import Demonstration
from rlrf.models.reward.self_evolve import SelfEvolution, self_evolve
from rlrf.models.reward.self_evolve_report import SelfEvolutionResult
from rlrf.models.reward.world import sample_preferences
from rlrf.objectives.job import Job
from rlrf.objectives.sft import Example, sft
from rlrf.quickstart import seed_policy
from rlrf.training_config import Optimisation
from tasks.mini import arithmetic, biography, instructions, world

sys.path.append(str(Path(__file__).parents[1]))  # where seed_policy_corpus lies

import seed_policy_corpus as corpus

PREFERENCES, HELD_OUT = 600, 400  # pairs for the reward models, and to measure them on
SELF_EVOLUTION: dict[str, Any] = {
    "seeds": [0, 1, 2],
    "seed_fractions": [0.15],
    "thresholds": {"published": {"minimum": 30}},
    "train": {"adapter": None, "learning_rate": 3.0e-4, "batch_size": 8, "center": 0.01},
    "engine": {"device": "cpu"},
}
# Documents of the seed corpus, of which few answers are careful.
DOCUMENTS, CAREFUL = 4000, 0.02


def prepare(out: Path) -> dict[str, Any]:
    """Make what is not there yet; where it all lies, by seed where that matters."""
    evolution = reward_models(out)
    shown = out / "demonstrations.jsonl"
    if not shown.is_file():
        write_jsonl(shown, demonstrations())
    everything, evolved = {}, {}
    for one in evolution.evolutions:
        at = out.resolve() / "ser" / f"seed_{one.seed}"
        last = len(one.loops) - 1
        everything[one.seed] = at / "all_labels" / "model"
        evolved[one.seed] = at / f"0.15{f'_published_loop_{last}' if last else '_loop_0'}" / "model"
    return {
        rows.ALL: everything,
        rows.SER: evolved,
        rows.ENSEMBLE: list(everything.values()),
        rows.DEMONSTRATIONS: shown.resolve(),
        rows.M0: seed_policy(),
        rows.SELDOM: seldom_careful(out),
    }


def reward_models(out: Path) -> SelfEvolutionResult:
    """From preferences between M0's answers: with all labels, and evolved from 15 % of them."""
    files = {name: out / f"{name}.jsonl" for name in ("pairs", "held_out")}
    if not all(path.is_file() for path in files.values()):
        from harness.engines.hf import HFEngine

        engine, rng = HFEngine(seed_policy(), device="cpu"), random.Random(0)
        for name, split, prompts, size in (
            ("pairs", "train", 1600, PREFERENCES),
            ("held_out", "gate", 800, HELD_OUT),
        ):
            found = sample_preferences(engine, prompts, split=split)
            rng.shuffle(found)
            write_jsonl(files[name], found[:size])
    places = {name: str(path) for name, path in files.items()}
    config = SelfEvolution.model_validate({"model": str(seed_policy()), **places, **SELF_EVOLUTION})
    return self_evolve(config, out / "ser")


def demonstrations() -> list[Demonstration]:
    """A careful answer to every train item, as the seed corpus writes them."""
    rng, people = random.Random(0), world.everyone()
    careful = {
        arithmetic.TASK: lambda item: item.reference["answer"],
        biography.TASK: lambda item: corpus.plain(people[item.index]),
        instructions.TASK: lambda item: corpus.complete(item, rng),
    }
    return [
        Demonstration(prompt=item.prompt, response=write(item))
        for task, write in careful.items()
        for item in world.items(task, "train")
    ]


def seldom_careful(out: Path) -> Path:
    """M0 after more of its corpus, in which now few answers are careful and rewrites still are."""
    folder = out.resolve() / "seldom"
    if not (folder / "model").is_dir():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(seed_policy())
        habits, corpus.HABITS = corpus.HABITS, (CAREFUL,)
        try:
            documents = list(islice(corpus.documents(seed=1), DOCUMENTS))
        finally:
            corpus.HABITS = habits
        examples = []
        for number, document in enumerate(documents):
            if document.is_page:
                continue
            turns = [message.model_dump() for message in document.messages[:-1]]
            prompt = tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
            response = document.messages[-1].content
            examples.append(
                Example(task="corpus", item="", index=number, prompt=prompt, response=response)
            )
        training = Optimisation(learning_rate=1e-3, batch_size=32, max_length=512)
        start = Checkpoint("M0", seed_policy())
        device = Device(device="cpu")
        job = Job(start=start, config=training, adapter=None, device=device, seed=0, out=folder)
        sft(examples, job)
    return folder / "model"
