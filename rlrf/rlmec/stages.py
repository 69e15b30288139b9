"""The steps of RLMEC as a run keeps them, beside those of every method (`rlrf.stages`)."""

from __future__ import annotations

from pathlib import Path

from harness.core.errors import UserError
from harness.core.files import write_json, write_jsonl
from harness.core.progress import say
from harness.core.schema import Sample
from rlrf import objectives
from rlrf import rlmec as package
from rlrf.checkpoint import Checkpoint
from rlrf.code_digests import generation_settings, source
from rlrf.context import IterationContext
from rlrf.feedback import Judged
from rlrf.objectives.base import DivergedError, checkpoint
from rlrf.objectives.sft import sft
from rlrf.reflect import Refinement
from rlrf.rlmec.rewards import TokenRewards, token_rewards
from rlrf.rlmec.rewriter import REQUESTS, agree, agreement, examples, held_out, locate, rewrite
from rlrf.rlmec.source import NAME, RewriterSource
from rlrf.rlmec.teacher import Correction, teach
from rlrf.rlmec.teacher_prompt import TEACHER_DIGEST
from rlrf.run import Records
from rlrf.stages import saves_of


def corrected(turn: IterationContext, judged: Records[Judged]) -> Records[Correction]:
    """What a teacher makes of the wrong responses; none where no rewriter learns in this turn."""
    lab, config = turn.lab, turn.lab.config.rlmec
    return lab.run.records(
        f"{turn.place}/corrections",
        Correction,
        [judged, _learns(turn), config.teacher, config.gold, TEACHER_DIGEST],
        lambda: (
            teach(judged.records, turn.items, lab.tasks, config, lab.judge) if _learns(turn) else []
        ),
        {**lab.tasks_code, **_code()},
    )


def rewriter(
    turn: IterationContext, judged: Records[Judged], corrections: Records[Correction]
) -> Checkpoint | None:
    """The rewriter of this turn: the one that was named, an earlier turn's, or one that learns now.

    None where there is nothing to learn from.

    Raises:
        UserError: its training diverged, or no example fits.
    """
    if not _learns(turn):
        return _source(turn).trained or _earlier(turn)
    lab, config, base = turn.lab, turn.lab.config, _source(turn).base
    kept = measured_on(turn)
    shown = [one for one in judged.records if one.sample.item not in kept]
    taught = [one for one in corrections.records if one.item not in kept]

    def train(folder: Path) -> None:
        made = examples(
            shown,
            taught,
            turn.items,
            lab.tasks,
            gold=config.rlmec.gold,
            render=lab.engines.load(base).render,
        )
        write_jsonl(folder / "examples.jsonl", made)
        lab.engines.release()
        say(f"the rewriter learns from {len(made)} examples of {len(turn.items) - len(kept)} items")
        if not made:
            return
        try:
            sft(
                made,
                base,
                config.rlmec.train,
                adapter=config.adapter,
                device=config.engine,
                seed=turn.seed("rewriter"),
                out=folder,
                saves=saves,
            )
        except DivergedError as error:
            raise UserError(f"The rewriter's {error} in rlmec.train.") from error

    asked = [config.rlmec.train, config.adapter, REQUESTS, config.rlmec.gold]
    reads = [base, judged, corrections, sorted(kept), *asked]
    code = _code() | source("the code of training", objectives)
    saves = saves_of(lab, f"{turn.place}/rewriter", reads, code)
    stage = lab.run.stage(f"{turn.place}/rewriter", reads, train, code)
    return _rewriter_in(stage.folder, base)


def rewritten(
    turn: IterationContext, model: Checkpoint | None, samples: Records[Sample]
) -> Records[Refinement]:
    """The rewriter's rewrite of every response; nothing without a rewriter."""
    lab, config = turn.lab, turn.lab.config
    return lab.run.records(
        f"{turn.place}/rewritten",
        Refinement,
        [model, samples, config.explore.max_tokens, REQUESTS],
        lambda: (
            rewrite(
                lab.run.keeping(lab.engines.load(model)),
                samples.records,
                turn.items,
                lab.tasks,
                max_tokens=config.explore.max_tokens,
                first_repeat=config.explore.n,
            )
            if model
            else []
        ),
        _code() | generation_settings(lab.tasks),
    )


def measured(
    turn: IterationContext,
    model: Checkpoint | None,
    judged: Records[Judged],
    corrections: Records[Correction],
    rewritten: Records[Judged],
) -> None:
    """Keep how the rewriter does on the responses that it did not learn from: `agreement.json`."""
    lab, config = turn.lab, turn.lab.config
    kept = measured_on(turn)

    def measure(folder: Path) -> None:
        both = [
            (one, other)
            for one, other in zip(judged.records, rewritten.records, strict=True)
            if one.sample.item in kept
        ]
        engine = lab.engines.load(model) if model else None
        samples = [one.sample for one, _ in both]
        scores = agreement(
            [one for one, _ in both],
            [other for _, other in both],
            locate(engine, samples, turn.items) if engine else [],
            corrections.records,
            tasks=lab.tasks,
            gold=config.rlmec.gold,
        )
        write_jsonl(folder / "scores.jsonl", scores)
        write_json(folder / "agreement.json", agree(scores))

    if model:
        reads = [model, judged, corrections, rewritten, sorted(kept), config.rlmec.gold, REQUESTS]
        lab.run.stage(f"{turn.place}/agreement", reads, measure, _code())


def rewarded(
    turn: IterationContext, model: Checkpoint | None, judged: Records[Judged]
) -> Records[TokenRewards]:
    """What each token of each response is worth; nothing without a rewriter."""
    lab, config = turn.lab, turn.lab.config.rlmec
    bounds = [config.gold, config.middle, config.most, config.least]
    return lab.run.records(
        f"{turn.place}/token_rewards",
        TokenRewards,
        [model, judged, *bounds, REQUESTS],
        lambda: (
            token_rewards(lab.engines.load_hf(model), judged.records, turn.items, lab.tasks, config)
            if model
            else []
        ),
        _code(),
    )


def _code() -> dict[str, str]:
    return source("the code of RLMEC", package)


def measured_on(turn: IterationContext) -> set[str]:
    """The items that the turn's rewriter did not learn from: all of them if it learned before."""
    if not _learns(turn):
        return set(turn.items)
    return held_out(turn.asked, turn.lab.config.rlmec.held_out, turn.seed("held out"))


def _source(turn: IterationContext) -> RewriterSource:
    source = turn.lab.rewriter
    assert source is not None  # noqa: S101 (the method was checked)
    return source


def _learns(turn: IterationContext) -> bool:
    """Whether a rewriter is trained in this turn."""
    if _source(turn).trained is not None:
        return False
    return turn.lab.config.rlmec.refresh or _earlier(turn) is None


def _earlier(turn: IterationContext) -> Checkpoint | None:
    """The rewriter that the last turn before this one trained, if any did."""
    base = _source(turn).base
    folders = (turn.lab.run.folder / f"iter_{k}" / "rewriter" for k in range(1, turn.number))
    found = [model for folder in folders if (model := _rewriter_in(folder, base))]
    return found[-1] if found else None


def _rewriter_in(folder: Path, base: Checkpoint) -> Checkpoint | None:
    if not (folder / "metrics.jsonl").is_file():
        return None
    return checkpoint(folder, NAME, base)
