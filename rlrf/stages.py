"""The stages of an iteration: each is kept on disk, and skipped when it is there already.

`run.records(name, kind, reads, make, code)` is how a stage is kept. It returns the records in
`RUN/name/records.jsonl`. `make()` is called only if they are missing, if they were made from other
`reads` (configuration, models, earlier stages), or if the `code` that shapes them has changed:

    run.records(
        "iter_1/explore",                      # name: the folder of the stage
        Sample,                                # kind: the class of its records
        [policy_model, config.explore, items], # reads: what it depends on
        lambda: sampling.explore(...),         # make
        source("the code of exploration", sampling),  # code: digests, named for messages
    )

The result has `records` and a `digest`, so that the next stage can name it in its own `reads`.
`run.stage` is the same for a stage that writes its files itself, such as `train`.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.files import read_json, write_json, write_jsonl
from harness.core.log import say
from harness.core.schema import AspectFeedback, Feedback, Item, Sample
from harness.engines.model_folder import Checkpoint
from rlrf import feedback, objectives, reflect, sampling
from rlrf.code_digests import Code, generation_settings, source
from rlrf.context import IterationContext, Services
from rlrf.feedback import Judged
from rlrf.models import reward as reward_models
from rlrf.objectives.checkpoints import TrainingState
from rlrf.objectives.job import DivergedError, Job, Objective, checkpoint
from rlrf.objectives.launch import launch
from rlrf.reflect import Refinement, choose_drafts
from rlrf.reward import ModelReward, Rewarded, reward_by_feedback, reward_by_model
from rlrf.run import Records, Run, Stage
from rlrf.training_examples import ExamplesReport, ExampleT, TrainingExample, find_leak

DIVERGED = "diverged.json"


@dataclass(frozen=True)
class Attempt:
    """Result of a method in one iteration: a candidate, or the reason why there is none."""

    candidate: Checkpoint | None
    report: ExamplesReport
    stopped: str = ""


def explore(iteration: IterationContext) -> Records[Sample]:
    """Sample the policy model's responses to the prompts of the iteration."""
    services, config = iteration.services, iteration.config.explore
    return iteration.run.records(
        f"{iteration.name}/explore",
        Sample,
        [iteration.policy_model, config, list(iteration.items)],
        lambda: sampling.explore(
            iteration.run.keeping(services.engines.load(iteration.policy_model)),
            iteration.items_by_task,
            services.tasks,
            config,
            iteration.seed("explore"),
        ),
        generation_settings(services.tasks) | source("the code of exploration", sampling),
    )


def select(iteration: IterationContext, samples: Records[Sample]) -> Records[Sample]:
    """Keep the `explore.keep` responses per prompt that the reward model prefers.

    A cheap filter before costly feedback; without `explore.keep` all responses stay.
    """
    keep = iteration.config.explore.keep
    if keep is None:
        return samples
    rewards = _rewards(iteration, samples)
    ranked: dict[str, list[tuple[float, int]]] = {}
    for position, reward in enumerate(rewards.records):
        ranked.setdefault(reward.item, []).append((-reward.reward, position))
    best = sorted(position for of_item in ranked.values() for _, position in sorted(of_item)[:keep])
    return Records(
        [samples.records[position] for position in best], f"{rewards.digest} best {keep}"
    )


def give_feedback(iteration: IterationContext, samples: Records[Sample]) -> Records[Judged]:
    """Score explored responses and say what is wrong with each."""
    drafts = [None] * len(samples.records)
    return _give_feedback(iteration, "feedback", samples, samples.records, drafts)


def give_feedback_on_refinements(
    iteration: IterationContext, refinements: Records[Refinement]
) -> Records[Judged]:
    """Score refinements and say what is wrong with each, as for explored responses."""
    samples = [refinement.sample for refinement in refinements.records]
    drafts = [refinement.draft for refinement in refinements.records]
    return _give_feedback(iteration, "reflect_feedback", refinements, samples, drafts)


def _give_feedback(
    iteration: IterationContext,
    stage: str,
    reads: Records[Any],
    samples: Sequence[Sample],
    drafts: Sequence[int | None],
) -> Records[Judged]:
    services = iteration.services
    return iteration.run.records(
        f"{iteration.name}/{stage}",
        Judged,
        [reads],
        lambda: feedback.give_feedback(
            samples,
            iteration.items,
            services.tasks,
            judge=services.judge,
            critics=services.critics,
            drafts=drafts,
        ),
        services.feedback_code,
    )


def refine(iteration: IterationContext, judged: Records[Judged]) -> Records[Refinement]:
    """Let the policy model rewrite its most promising responses, given the feedback on them."""
    services, config = iteration.services, iteration.config
    drafts = choose_drafts(
        judged.records, services.tasks, config.reflect.m, iteration.seed("drafts")
    )
    return iteration.run.records(
        f"{iteration.name}/reflect",
        Refinement,
        [iteration.policy_model, config.reflect, judged],
        lambda: reflect.reflect(
            iteration.run.keeping(services.engines.load(iteration.policy_model)),
            drafts,
            iteration.items,
            services.tasks,
            config.reflect,
            first_repeat=config.explore.n,
            seed=iteration.seed("reflect"),
        ),
        generation_settings(services.tasks)
        | source("the words of reflection", reflect, sampling, Feedback, AspectFeedback),
    )


def reward(iteration: IterationContext, samples: Records[Sample]) -> list[Rewarded]:
    """Reward explored responses, for methods that do not refine them.

    The run's reward model rewards them, without feedback. In a run without one, each is scored and
    given feedback (stage `feedback`), and the reward is the benchmark's score.
    """
    services = iteration.services
    if services.rewarder is None:
        return reward_by_feedback(give_feedback(iteration, samples).records, services.tasks)
    rewards = _rewards(iteration, samples).records
    return reward_by_model(samples.records, [one.reward for one in rewards])


def train(
    iteration: IterationContext,
    examples: Sequence[ExampleT],
    report: ExamplesReport,
    objective: Objective[ExampleT],
    reads: Sequence[Any] = (),
) -> Attempt:
    """Store the training examples, check them for held-out items, and train on them.

    Args:
        reads: what training depends on besides examples, policy model and `train`.
    """
    # 1. Store the examples, even if there are none.
    stored = _store(iteration, examples, report)
    say(f"iteration {iteration.number}: {report.sentence()}")

    # 2. Stop if there is nothing to train on, or if held-out items are among it.
    if not examples:
        advice = report.remedy(iteration.config.explore, iteration.config.pairs)
        say(f"iteration {iteration.number} has nothing to train on; {advice}")
        return Attempt(None, report.model_copy(update={"advice": advice}))
    if leak := _find_leak(iteration, examples):
        say(f"iteration {iteration.number} is blocked: {leak}")
        return Attempt(None, report, leak)

    # 3. Train.
    trained = _fit_as_stage(
        iteration,
        examples,
        objective,
        [iteration.policy_model, stored, iteration.config.train, iteration.config.adapter, *reads],
    )

    # 4. Return the candidate, or the reason why training failed.
    if (trained.folder / DIVERGED).is_file():
        reason = str(read_json(trained.folder / DIVERGED)["reason"])
        kept = iteration.policy_model.name
        say(f"iteration {iteration.number} is rolled back, {kept} stays: {reason}")
        return Attempt(None, report, reason)
    candidate = checkpoint(trained.folder, iteration.candidate_name, iteration.policy_model)
    return Attempt(candidate, report)


def _store(
    iteration: IterationContext, examples: Sequence[TrainingExample], report: ExamplesReport
) -> Stage:
    """Keep the examples and their report as a stage named after their kind."""
    kind = report.kind

    def store(folder: Path) -> None:
        write_jsonl(folder / f"{kind}.jsonl", examples)
        write_json(folder / "report.json", report)

    # The number of responses that were cut off is left out: older runs did not count them.
    counted = report.model_copy(update={"cut": 0})
    texts = [[example.item, *example.texts] for example in examples]
    return iteration.run.stage(f"{iteration.name}/{kind}", [counted, texts], store)


def _fit_as_stage(
    iteration: IterationContext,
    examples: Sequence[ExampleT],
    objective: Objective[ExampleT],
    reads: Sequence[Any],
) -> Stage:
    """Train as the stage `train`; training that diverges leaves `DIVERGED` instead of a model."""
    code = source("the code of training", objectives)
    state = training_state(iteration, "train", reads, code)

    def fit_or_record_divergence(folder: Path) -> None:
        iteration.services.engines.release()
        try:
            fit(iteration, examples, objective, folder, state)
        except DivergedError as error:
            # The model is lost; the metrics of the steps before are evidence, and stay.
            write_jsonl(folder / "metrics.jsonl", error.rows)
            write_json(folder / DIVERGED, {"reason": str(error)})
        gc.collect()  # a trainer holds the model in reference cycles

    return iteration.run.stage(f"{iteration.name}/train", reads, fit_or_record_divergence, code)


def _find_leak(iteration: IterationContext, examples: Sequence[TrainingExample]) -> str:
    prompts = {iteration.items[example.item].prompt for example in examples}
    texts = {text for example in examples for text in example.texts}
    return find_leak(prompts | texts, iteration.services.held_out, iteration.config.gate.overlap)


def _rewards(iteration: IterationContext, samples: Records[Sample]) -> Records[ModelReward]:
    stage = f"{iteration.name}/reward"
    return score_by_model(iteration.services, iteration.run, stage, samples, iteration.items)


def score_by_model(
    services: Services, run: Run, stage: str, samples: Records[Sample], items: Mapping[str, Item]
) -> Records[ModelReward]:
    """Score samples by the run's reward model, in order, and keep the rewards as `stage`."""
    rewarder = services.rewarder
    assert rewarder is not None  # noqa: S101 (the configuration was checked)

    def score() -> list[ModelReward]:
        services.engines.release()
        rewards = rewarder.score(samples.records, items)
        return [
            ModelReward(item=sample.item, repeat=sample.repeat, reward=float(reward))
            for sample, reward in zip(samples.records, rewards, strict=True)
        ]

    code = source("the code of reward models", reward_models)
    return run.records(stage, ModelReward, [samples], score, code)


def training_state(
    iteration: IterationContext, stage: str, reads: Sequence[Any], code: Code
) -> TrainingState | None:
    """Return where the training that makes `stage` saves its state; None if it does not."""
    minutes = iteration.config.train.checkpoint_minutes
    if minutes is None:
        return None
    folder = iteration.run.in_progress(f"{iteration.name}/{stage}", reads, code)
    return TrainingState(folder, minutes)


def fit(
    iteration: IterationContext,
    examples: Sequence[ExampleT],
    objective: Objective[ExampleT],
    out: Path,
    state: TrainingState | None = None,
) -> None:
    """Train the policy model, which is also the reference, on `examples`.

    Training in one process resumes from `state` after it was killed.

    Raises:
        DivergedError: the loss is not a number.
        UserError: no example fits.
    """
    config = iteration.config
    job = Job(
        start=iteration.policy_model,
        config=config.train,
        adapter=config.adapter,
        device=config.engine,
        seed=iteration.seed("train"),
        out=out,
        logs=iteration.logs,
        state=state,
        references=iteration.references,
        rlmec=config.rlmec,
    )
    if config.train.launch is None:
        objective(examples, job)
    else:
        launch(objective, examples, job)
