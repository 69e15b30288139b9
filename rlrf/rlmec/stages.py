"""The stages that only RLMEC has; those of every method are in `rlrf.stages`."""

from __future__ import annotations

from pathlib import Path

from harness.core.errors import UserError
from harness.core.files import write_json, write_jsonl
from harness.core.log import say
from harness.core.schema import Sample
from harness.engines.model_folder import Checkpoint
from rlrf import objectives
from rlrf import rlmec as package
from rlrf.code_digests import generation_settings, source
from rlrf.context import IterationContext
from rlrf.feedback import Judged
from rlrf.objectives.job import DivergedError, Job, checkpoint
from rlrf.objectives.sft import sft
from rlrf.reflect import Refinement
from rlrf.rlmec import rewriter
from rlrf.rlmec.rewriter import (
    NAME,
    REQUESTS,
    RewriterSource,
    agree,
    agreement,
    examples,
    held_out,
    locate,
)
from rlrf.rlmec.teacher import TEACHER_DIGEST, Correction, teach
from rlrf.rlmec.tokens import TokenRewards, token_rewards
from rlrf.run import Records, iteration_name
from rlrf.stages import training_state


def correct(iteration: IterationContext, judged: Records[Judged]) -> Records[Correction]:
    """Let a teacher correct the wrong responses, if a rewriter is trained in this iteration."""
    services, config = iteration.services, iteration.config.rlmec
    return iteration.run.records(
        f"{iteration.name}/corrections",
        Correction,
        [judged, _learns(iteration), config.teacher, config.gold, TEACHER_DIGEST],
        lambda: (
            teach(judged.records, iteration.items, services.tasks, config, services.judge)
            if _learns(iteration)
            else []
        ),
        {**services.tasks_code, **_code()},
    )


def train_rewriter(
    iteration: IterationContext, judged: Records[Judged], corrections: Records[Correction]
) -> Checkpoint | None:
    """Return the configured rewriter, an earlier iteration's, or one trained now.

    None if there is nothing to train on.

    Raises:
        UserError: its training diverged, or no example fits.
    """
    if not _learns(iteration):
        return _source(iteration).trained or _earlier(iteration)
    services, config, base = iteration.services, iteration.config, _source(iteration).base
    kept = measured_on(iteration)
    shown = [one for one in judged.records if one.sample.item not in kept]
    taught = [one for one in corrections.records if one.item not in kept]

    def train(folder: Path) -> None:
        made = examples(
            shown,
            taught,
            iteration.items,
            services.tasks,
            gold=config.rlmec.gold,
            render=services.engines.load(base).render,
        )
        write_jsonl(folder / "examples.jsonl", made)
        services.engines.release()
        say(
            f"the rewriter is trained on {len(made)} examples of "
            f"{len(iteration.items) - len(kept)} items"
        )
        if not made:
            return
        try:
            job = Job(
                start=base,
                config=config.rlmec.train,
                adapter=config.adapter,
                device=config.engine,
                seed=iteration.seed("rewriter"),
                out=folder,
                state=state,
            )
            sft(made, job)
        except DivergedError as error:
            raise UserError(f"The rewriter's {error} in rlmec.train.") from error

    asked = [config.rlmec.train, config.adapter, REQUESTS, config.rlmec.gold]
    reads = [base, judged, corrections, sorted(kept), *asked]
    code = _code() | source("the code of training", objectives)
    state = training_state(iteration, "rewriter", reads, code)
    stage = iteration.run.stage(f"{iteration.name}/rewriter", reads, train, code)
    return _rewriter_in(stage.folder, base)


def rewrite(
    iteration: IterationContext, model: Checkpoint | None, samples: Records[Sample]
) -> Records[Refinement]:
    """Let the rewriter rewrite every response; without a rewriter there are no rewrites."""
    services, config = iteration.services, iteration.config
    return iteration.run.records(
        f"{iteration.name}/rewritten",
        Refinement,
        [model, samples, config.explore.max_tokens, REQUESTS],
        lambda: (
            rewriter.rewrite(
                iteration.run.keeping(services.engines.load(model)),
                samples.records,
                iteration.items,
                services.tasks,
                max_tokens=config.explore.max_tokens,
                first_repeat=config.explore.n,
            )
            if model
            else []
        ),
        _code() | generation_settings(services.tasks),
    )


def measure_agreement(
    iteration: IterationContext,
    model: Checkpoint | None,
    judged: Records[Judged],
    corrections: Records[Correction],
    rewritten: Records[Judged],
) -> None:
    """Measure the rewriter on responses it was not trained on; stored in `agreement.json`."""
    services, config = iteration.services, iteration.config
    kept = measured_on(iteration)

    def measure(folder: Path) -> None:
        both = [
            (one, other)
            for one, other in zip(judged.records, rewritten.records, strict=True)
            if one.sample.item in kept
        ]
        engine = services.engines.load(model) if model else None
        samples = [one.sample for one, _ in both]
        scores = agreement(
            [one for one, _ in both],
            [other for _, other in both],
            locate(engine, samples, iteration.items) if engine else [],
            corrections.records,
            tasks=services.tasks,
            gold=config.rlmec.gold,
        )
        write_jsonl(folder / "scores.jsonl", scores)
        write_json(folder / "agreement.json", agree(scores))

    if model:
        reads = [model, judged, corrections, rewritten, sorted(kept), config.rlmec.gold, REQUESTS]
        iteration.run.stage(f"{iteration.name}/agreement", reads, measure, _code())


def reward_tokens(
    iteration: IterationContext, model: Checkpoint | None, judged: Records[Judged]
) -> Records[TokenRewards]:
    """Reward each token of each response; without a rewriter there are no rewards."""
    services, config = iteration.services, iteration.config.rlmec
    bounds = [config.gold, config.middle, config.most, config.least]
    return iteration.run.records(
        f"{iteration.name}/token_rewards",
        TokenRewards,
        [model, judged, *bounds, REQUESTS],
        lambda: (
            token_rewards(
                services.engines.load_hf(model),
                judged.records,
                iteration.items,
                services.tasks,
                config,
            )
            if model
            else []
        ),
        _code(),
    )


def _code() -> dict[str, str]:
    return source("the code of RLMEC", package)


def measured_on(iteration: IterationContext) -> set[str]:
    """Return the items that the rewriter was not trained on: all, if it was trained earlier."""
    if not _learns(iteration):
        return set(iteration.items)
    return held_out(
        iteration.items_by_task,
        iteration.services.config.rlmec.held_out,
        iteration.seed("held out"),
    )


def _source(iteration: IterationContext) -> RewriterSource:
    source = iteration.services.rewriter
    assert source is not None  # noqa: S101 (the method was checked)
    return source


def _learns(iteration: IterationContext) -> bool:
    """Return whether a rewriter is trained in this iteration."""
    if _source(iteration).trained is not None:
        return False
    return iteration.services.config.rlmec.refresh or _earlier(iteration) is None


def _earlier(iteration: IterationContext) -> Checkpoint | None:
    """Return the rewriter that an earlier iteration trained last, if any."""
    base = _source(iteration).base
    run, before = iteration.run.folder, range(1, iteration.number)
    folders = (run / iteration_name(number) / "rewriter" for number in before)
    trained = [model for folder in folders if (model := _rewriter_in(folder, base))]
    return trained[-1] if trained else None


def _rewriter_in(folder: Path, base: Checkpoint) -> Checkpoint | None:
    if not (folder / "metrics.jsonl").is_file():
        return None
    return checkpoint(folder, NAME, base)
