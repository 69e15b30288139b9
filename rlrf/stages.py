"""The stages of an iteration as a run keeps them: each on disk, and skipped when it is there."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

from harness.core.files import read_json, write_json, write_jsonl
from harness.core.progress import say
from harness.core.schema import AspectFeedback, Feedback, Item, Record, Sample
from rlrf import explore as explore_
from rlrf import objectives, sampling
from rlrf import reflect as reflect_
from rlrf.checkpoint import Checkpoint
from rlrf.code_digests import Code, generation_settings, source
from rlrf.config import Adapter, Device, Training
from rlrf.context import IterationContext, Services
from rlrf.explore import explore
from rlrf.feedback import Judged, give_feedback
from rlrf.leaks import leaks
from rlrf.models import reward as reward_model
from rlrf.objectives.base import DivergedError, checkpoint
from rlrf.objectives.checkpoints import Saves
from rlrf.objectives.launch import launch
from rlrf.reflect import Refinement, choose_drafts, reflect
from rlrf.reward import Rewarded, by_feedback, by_model
from rlrf.run import Records
from rlrf.training_examples import ExamplesReport, L

DIVERGED = "diverged.json"

T_contra = TypeVar("T_contra", contravariant=True)


class Objective(Protocol[T_contra]):
    """Train a policy model on examples and save it, as the functions of `rlrf.objectives` do."""

    def __call__(
        self,
        lessons: Sequence[T_contra],
        start: Checkpoint,
        config: Training,
        /,
        *,
        adapter: Adapter | None,
        device: Device,
        seed: int,
        out: Path,
        logs: Path | None,
        saves: Saves | None = None,
    ) -> None: ...


class ModelReward(Record):
    """What a reward model gives to a response."""

    item: str
    repeat: int
    reward: float


@dataclass(frozen=True)
class Attempt:
    """What an iteration came to: a candidate, or the reason why there is none."""

    candidate: Checkpoint | None
    report: ExamplesReport
    stopped: str = ""


def explored(turn: IterationContext) -> Records[Sample]:
    """The policy's responses to the turn's prompts."""
    lab, config = turn.lab, turn.lab.config.explore
    return lab.run.records(
        f"{turn.place}/explore",
        Sample,
        [turn.policy, config, list(turn.items)],
        lambda: explore(
            lab.run.keeping(lab.engines.load(turn.policy)),
            turn.asked,
            lab.tasks,
            config,
            turn.seed("explore"),
        ),
        generation_settings(lab.tasks) | source("the code of exploration", explore_, sampling),
    )


def rewarded(turn: IterationContext, samples: Records[Sample]) -> Records[ModelReward]:
    """What the reward model gives to each of `samples`, in order."""
    return model_rewards(turn.lab, f"{turn.place}/reward", samples, turn.items)


def model_rewards(
    lab: Services, place: str, samples: Records[Sample], items: Mapping[str, Item]
) -> Records[ModelReward]:
    """What the reward model gives to each of `samples`, kept at `place` in the run."""
    rewarder = lab.rewarder
    assert rewarder is not None  # noqa: S101 (the configuration was checked)

    def make() -> list[ModelReward]:
        lab.engines.release()
        found = rewarder.score(samples.records, items)
        return [
            ModelReward(item=sample.item, repeat=sample.repeat, reward=float(reward))
            for sample, reward in zip(samples.records, found, strict=True)
        ]

    code = source("the code of reward models", reward_model)
    return lab.run.records(place, ModelReward, [samples], make, code)


def promising(turn: IterationContext, samples: Records[Sample]) -> Records[Sample]:
    """Of each prompt the `explore.keep` responses that the reward model finds best: a cheap filter
    before costly feedback."""
    keep = turn.lab.config.explore.keep
    if keep is None:
        return samples
    found = rewarded(turn, samples)
    ranked: dict[str, list[tuple[float, int]]] = {}
    for place, one in enumerate(found.records):
        ranked.setdefault(one.item, []).append((-one.reward, place))
    best = sorted(place for of_item in ranked.values() for _, place in sorted(of_item)[:keep])
    return Records([samples.records[place] for place in best], f"{found.digest} best {keep}")


def judged(turn: IterationContext, samples: Records[Sample]) -> Records[Judged]:
    """Score and feedback of explored responses."""
    return _judged(turn, "feedback", samples, samples.records)


def rejudged(turn: IterationContext, refined: Records[Refinement]) -> Records[Judged]:
    """Score and feedback of refinements, by the same feedback."""
    samples = [one.sample for one in refined.records]
    return _judged(
        turn, "reflect_feedback", refined, samples, [one.draft for one in refined.records]
    )


def _judged(
    turn: IterationContext,
    place: str,
    read: Records[Any],
    samples: Sequence[Sample],
    drafts: Sequence[int | None] | None = None,
) -> Records[Judged]:
    lab = turn.lab
    return lab.run.records(
        f"{turn.place}/{place}",
        Judged,
        [read],
        lambda: give_feedback(
            samples, turn.items, lab.tasks, judge=lab.judge, critics=lab.critics, drafts=drafts
        ),
        lab.feedback_code,
    )


def refined(turn: IterationContext, found: Records[Judged]) -> Records[Refinement]:
    """The policy's rewrites of its most promising responses, given the feedback on them."""
    lab, config = turn.lab, turn.lab.config
    drafts = choose_drafts(found.records, lab.tasks, config.reflect.m, turn.seed("drafts"))
    return lab.run.records(
        f"{turn.place}/reflect",
        Refinement,
        [turn.policy, config.reflect, found],
        lambda: reflect(
            lab.run.keeping(lab.engines.load(turn.policy)),
            drafts,
            turn.items,
            lab.tasks,
            config.reflect,
            first_repeat=config.explore.n,
            seed=turn.seed("reflect"),
        ),
        generation_settings(lab.tasks)
        | source("the words of reflection", reflect_, sampling, Feedback, AspectFeedback),
    )


def ranked(turn: IterationContext, samples: Records[Sample]) -> list[Rewarded]:
    """The explored responses with their rewards, for the methods that ask for no more than that.

    By the reward model where the run has one, else by the benchmark's score.
    """
    if turn.lab.rewarder is None:
        return by_feedback(judged(turn, samples).records, turn.lab.tasks)
    return by_model(samples.records, [one.reward for one in rewarded(turn, samples).records])


def learn(
    turn: IterationContext,
    lessons: Sequence[L],
    report: ExamplesReport,
    objective: Objective[L],
    reads: Sequence[Any] = (),
) -> Attempt:
    """Keep the lessons, see that they hold nothing that is to be held out, and train on them.

    `reads` is what the training depends on beside lessons, policy and `train`.
    """
    lab, place, kind = turn.lab, turn.place, report.kind

    def keep(folder: Path) -> None:
        write_jsonl(folder / f"{kind}.jsonl", lessons)
        write_json(folder / "report.json", report)

    # Not how many responses were cut off: runs of before that was counted are resumed.
    counted = report.model_copy(update={"cut": 0})
    kept = lab.run.stage(f"{place}/{kind}", [counted, [_texts(one) for one in lessons]], keep)
    say(f"iteration {turn.number}: {report.sentence()}")
    prompts = {turn.items[lesson.item].prompt for lesson in lessons}
    texts = {text for lesson in lessons for text in lesson.texts}
    stopped = leaks(prompts | texts, lab.held_out, lab.config.gate.overlap)
    if stopped:
        say(f"iteration {turn.number} is blocked: {stopped}")
    if not lessons:
        advice = report.remedy(lab.config.explore, lab.config.pairs)
        report = report.model_copy(update={"advice": advice})
        say(f"iteration {turn.number} has nothing to train on; {advice}")
    if not lessons or stopped:
        return Attempt(None, report, stopped)

    def train(folder: Path) -> None:
        lab.engines.release()
        try:
            fit(turn, lessons, objective, folder, saves)
        except DivergedError as error:
            # What was there of a model is gone; the steps before stay as evidence.
            write_jsonl(folder / "metrics.jsonl", error.rows)
            write_json(folder / DIVERGED, {"reason": str(error)})
        gc.collect()  # a trainer is in cycles, and holds the model

    reads = [turn.policy, kept, lab.config.train, lab.config.adapter, *reads]
    code = source("the code of training", objectives, *_module_of(objective))
    saves = saves_of(lab, f"{place}/train", reads, code)
    trained = lab.run.stage(f"{place}/train", reads, train, code)
    if (trained.folder / DIVERGED).is_file():
        reason = str(read_json(trained.folder / DIVERGED)["reason"])
        say(f"iteration {turn.number} is rolled back, {turn.policy.name} stays: {reason}")
        return Attempt(None, report, reason)
    return Attempt(checkpoint(trained.folder, turn.candidate, turn.policy), report)


def saves_of(lab: Services, name: str, reads: Sequence[Any], code: Code) -> Saves | None:
    """Where the training that makes the stage `name` saves its state, if it does."""
    minutes = lab.config.train.checkpoint_minutes
    return None if minutes is None else Saves(lab.run.in_progress(name, reads, code), minutes)


def _module_of(objective: Any) -> list[ModuleType]:
    """The module of an objective of a method, where it is not in `rlrf.objectives` itself."""
    function = objective.func if isinstance(objective, partial) else objective
    name = str(getattr(function, "__module__", ""))
    is_elsewhere = name.startswith("rlrf.") and not name.startswith(f"{objectives.__name__}.")
    return [sys.modules[name]] if is_elsewhere else []


def fit(
    turn: IterationContext,
    lessons: Sequence[L],
    objective: Objective[L],
    out: Path,
    saves: Saves | None = None,
) -> None:
    """Train the turn's policy, which is the reference too, on `lessons`, as the run is configured.

    In one process a training that was killed goes on from `saves`.

    Raises:
        DivergedError: the loss is not a number.
        UserError: no lesson fits.
    """
    config = turn.lab.config
    one_process = config.train.launch is None
    train = partial(objective, saves=saves) if one_process else partial(launch, objective)
    train(
        lessons,
        turn.policy,
        config.train,
        adapter=config.adapter,
        device=config.engine,
        seed=turn.seed("train"),
        out=out,
        logs=turn.logs,
    )


def _texts(lesson: Any) -> list[str]:
    return [lesson.item, *lesson.texts]
