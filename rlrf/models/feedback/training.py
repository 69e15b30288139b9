"""Train feedback models by supervised fine-tuning on a judge's justifications and grades."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import UserError
from harness.core.files import write_json
from harness.core.folders import new_folder
from harness.core.log import say
from harness.core.outputs import model_kind
from harness.engines import LocalEngine
from harness.engines.model_folder import Checkpoint, model_digest
from harness.engines.open import open_hf_engine, open_local_engine
from rlrf.config import Device
from rlrf.models.feedback.cases import Case, cases_digest, usual_grades
from rlrf.models.feedback.measure import Comparison, Measured, measure, usual_feedback
from rlrf.models.feedback.model import (
    MANIFEST,
    Asks,
    FeedbackManifest,
    FeedbackTraining,
    ask,
    criticise,
    read_manifest,
    write_reply,
)
from rlrf.models.trained_model import file_digests, split_by_prompt
from rlrf.objectives.base import encode_response
from rlrf.objectives.job import Job
from rlrf.objectives.sft import Example, sft

AGREEMENT = "agreement.json"
KIND = model_kind("a feedback model", MANIFEST)


def train(
    cases: Sequence[Case],
    base: Path,
    training: FeedbackTraining,
    *,
    reference: bool = True,
    share: float = 0.2,
    device: Device,
    seed: int = 0,
    out: Path,
) -> tuple[FeedbackManifest, Comparison]:
    """Train a feedback model from `base` and save it as `out`; equal inputs give equal bytes.

    About `share` of the cases, whole prompts, are held out to measure the model, the untrained
    `base` and the usual grades. With `reference` the model is shown the task's reference. `out`
    becomes a plain `transformers` folder with `metrics.jsonl`, one row per step, `agreement.json`
    (`Comparison`) and `feedback_model.json`. An existing feedback model is replaced only after
    training has succeeded.

    Raises:
        UserError: `out` holds something else, `base` cannot be used, too few cases are left to
            learn from or to measure on, or the loss is not a finite number.
    """
    KIND.check(out, reads=[base])
    held_out, learned = split_by_prompt(cases, share, seed)
    if not held_out or not learned:
        raise UserError(
            f"{len(cases)} judged answers have too few prompts to learn from some and to measure "
            "on others. Judge answers to more prompts, or change the held-out share."
        )
    usual = usual_grades(learned)
    asks = Asks(
        aspects=list(usual),
        reference=reference,
        max_length=training.max_length,
        max_reply=training.max_reply,
    )
    engine = open_local_engine(device.spec(base))
    examples, cut = _examples(learned, asks, engine)
    if not examples:
        raise UserError(
            f"None of the {len(learned)} judged answers can be learned: the feedback or the "
            f"question does not fit into {asks.room(engine)} tokens. Raise max_length or max_reply."
        )
    untrained = agreement(engine, held_out, asks)
    del engine
    with new_folder(out, KIND.may_replace) as folder:
        _fit(examples, base, training, device=device, seed=seed, folder=folder)
        comparison = Comparison(
            model=agreement(open_local_engine(device.spec(folder)), held_out, asks),
            usual=measure(held_out, usual_feedback(held_out, usual)),
            base=untrained,
        )
        write_json(folder / AGREEMENT, comparison)
        manifest = FeedbackManifest(
            base=model_digest(base),
            cases=cases_digest(learned),
            answers=len(examples),
            left_out=len(learned) - len(examples),
            cut=cut,
            items=sorted({case.subject.item.digest for case in learned}),
            usual=usual,
            asks=asks,
            training=training,
            seed=seed,
            files=file_digests(folder),
        )
        write_json(folder / MANIFEST, manifest)
    return manifest, comparison


def agreement(engine: LocalEngine, cases: Sequence[Case], asks: Asks) -> Measured:
    """Measure how the model in `engine` agrees with the judge on `cases`."""
    critiques = criticise(engine, [case.subject for case in cases], asks)
    return measure(cases, [critique.feedback for critique in critiques])


def evaluate(
    folder: Path, cases: Sequence[Case], *, base: Path | None = None, device: Device
) -> Comparison:
    """Measure how the feedback model in `folder` agrees with the judge on items new to it.

    Raises:
        UserError: the folder is not a feedback model, or it learned from all of these items.
    """
    manifest = read_manifest(folder)
    known = set(manifest.items)
    unseen = [case for case in cases if case.subject.item.digest not in known]
    if not unseen:
        raise UserError(
            f"The model learned from the items of all {len(cases)} answers; measure it on others."
        )
    if len(unseen) < len(cases):
        say(f"{len(cases) - len(unseen)} answers are left out: the model learned from their items")
    return Comparison(
        model=agreement(open_local_engine(device.spec(folder)), unseen, manifest.asks),
        usual=measure(unseen, usual_feedback(unseen, manifest.usual)),
        base=agreement(open_local_engine(device.spec(base)), unseen, manifest.asks)
        if base
        else None,
    )


def _examples(cases: Sequence[Case], asks: Asks, engine: LocalEngine) -> tuple[list[Example], int]:
    """Convert `cases` that fit to training examples; also count those that had to be cut off."""
    _, most = asks.room(engine)
    examples, cut = [], 0
    for case in cases:
        prompt, reply = ask(case.subject, asks, engine), write_reply(case.feedback)
        if prompt is None or len(encode_response(reply, engine.tokenizer)) > most:
            continue
        cut += prompt.cut
        item = case.subject.item
        examples.append(
            Example(
                task=item.task,
                item=item.digest,
                index=item.index,
                prompt=prompt.text,
                response=reply,
            )
        )
    return examples, cut


def _fit(
    examples: Sequence[Example],
    base: Path,
    training: FeedbackTraining,
    *,
    device: Device,
    seed: int,
    folder: Path,
) -> None:
    """Fine-tune, and write a plain model folder with its metrics to `folder`."""
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch)
        job = Job(
            start=Checkpoint("the base model", base),
            config=training,
            adapter=training.adapter,
            device=device,
            seed=seed,
            out=made,
        )
        sft(examples, job)
        if training.adapter is not None:
            engine = open_hf_engine(device.spec(base, adapter=made / "adapter"))
            engine.model.save_pretrained(folder)
            engine.tokenizer.save_pretrained(folder)
        else:
            shutil.copytree(made / "model", folder, dirs_exist_ok=True)
        shutil.copy(made / "metrics.jsonl", folder)
