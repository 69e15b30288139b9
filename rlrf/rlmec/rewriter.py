"""The generative reward model of RLMEC, which finds a response's first wrong step and rewrites it.

It is asked in conversations, in its own chat template: the prompt, the response, and a request. It
learns from its teacher to name the first wrong step, to rewrite the whole response, and to leave
right responses unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from harness.core.errors import UserError
from harness.core.log import say
from harness.core.schema import Item, Message, Metric, MetricResult, Record, Sample, Score, digest
from harness.engines import Engine, Sampling, model_folder
from harness.engines.model_folder import Checkpoint
from harness.stats.intervals import aggregate
from rlrf.config import Config, Decoding
from rlrf.feedback import Judged
from rlrf.objectives.sft import Example
from rlrf.reflect import Refinement
from rlrf.rlmec.teacher import Correction, is_right
from rlrf.sampling import completions, conversation, sample_of
from tasks.task import Judge, Task

LOCATE = "Which step is the first wrong one?"
REWRITE = "Keep what is right.\nRewrite the answer."
REQUESTS = digest([LOCATE, REWRITE])

NUMBER = Sampling(max_tokens=8)
NAME = "the rewriter"

Render = Callable[[Sequence[Message]], str]


class Agreement(Record):
    """Quality of a rewriter on the items that it did not learn from: means over items."""

    by_task: dict[str, dict[str, MetricResult]] = Field(
        description="task -> share of responses: located (the first wrong step is the teacher's), "
        "repaired (the rewrite of a wrong response is right), copied (a right one is unchanged)"
    )

    def sentence(self) -> str:
        """Summarise the agreement in one line."""
        return "; ".join(
            f"{task} " + ", ".join(f"{name} {_shown(result)}" for name, result in metrics.items())
            for task, metrics in self.by_task.items()
        )


def held_out(asked: Mapping[str, Sequence[Item]], share: float, seed: int) -> set[str]:
    """Choose the items on which the rewriter is measured: a `share` of each task's, by digest."""
    chosen: set[str] = set()
    for items in asked.values():
        order = sorted((item.digest for item in items), key=lambda one: digest([seed, one]))
        chosen |= set(order[: round(share * len(order))])
    return chosen


def examples(
    judged: Iterable[Judged],
    corrections: Iterable[Correction],
    items: Mapping[str, Item],
    tasks: Mapping[str, Task],
    *,
    gold: float,
    render: Render,
) -> list[Example]:
    """Make the rewriter's training examples: both requests for each right or corrected response.

    A correction is also right, so the rewriter learns to leave it unchanged.
    """
    responses = {(one.sample.item, one.sample.repeat): one for one in judged}
    shown: dict[tuple[str, str], tuple[int, str]] = {}  # item, response -> first wrong, rewrite
    for (item, _), one in responses.items():
        if is_right(one, tasks, gold):
            shown[item, one.sample.response] = 0, one.sample.response
    for made in corrections:
        if made.rewrite:
            response = responses[made.item, made.repeat].sample.response
            shown[made.item, response] = made.first_wrong, made.rewrite
            shown.setdefault((made.item, made.rewrite), (0, made.rewrite))
    return [
        Example(
            task=items[item].task,
            item=item,
            index=items[item].index,
            prompt=render(conversation(items[item].prompt, response, request)),
            response=answer,
        )
        for (item, response), (first, rewrite) in shown.items()
        for request, answer in ((LOCATE, str(first)), (REWRITE, rewrite))
    ]


def rewrite(
    engine: Engine,
    samples: Sequence[Sample],
    items: Mapping[str, Item],
    tasks: Mapping[str, Task],
    *,
    max_tokens: int | None,
    first_repeat: int,
) -> list[Refinement]:
    """Rewrite each sample greedily; the rewrite's repeat is the sample's plus `first_repeat`."""
    prompts = _prompts(engine, samples, items, REWRITE)
    to_ask = [(draft.task, prompt) for draft, prompt in zip(samples, prompts, strict=True)]
    greedy = Decoding(temperature=0, max_tokens=max_tokens)
    made = completions(engine, to_ask, tasks, decoding=greedy, n=1, seed=0, stage="rewrite")
    return [
        Refinement(
            draft=draft.repeat,
            sample=sample_of(items[draft.item], prompt, completion, first_repeat + draft.repeat),
        )
        for draft, prompt, (completion,) in zip(samples, prompts, made, strict=True)
    ]


def locate(
    engine: Engine, samples: Sequence[Sample], items: Mapping[str, Item]
) -> list[int | None]:
    """Ask the rewriter for the number of each sample's first wrong step, 0 for none.

    None if its reply has no number.
    """
    prompts = _prompts(engine, samples, items, LOCATE)
    answers = engine.generate(prompts, NUMBER) if prompts else []
    numbers = [re.search(r"[0-9]{1,6}", completion.text) for (completion,) in answers]
    return [int(number.group()) if number else None for number in numbers]


def agreement(
    judged: Sequence[Judged],
    rewritten: Sequence[Judged],
    located: Sequence[int | None],
    corrections: Sequence[Correction],
    *,
    tasks: Mapping[str, Task],
    gold: float,
) -> list[Score]:
    """Score the rewriter, response by response.

    `rewritten` are the judged rewrites of `judged`, `located` the rewriter's numbers of their first
    wrong steps, which are scored in tasks for which a teacher corrected responses.
    """
    taught = {(one.item, one.repeat): one.first_wrong for one in corrections if one.rewrite}
    with_teacher = {one.task for one in corrections if one.rewrite}
    scores = []
    for one, rewrite, number in zip(judged, rewritten, located, strict=True):
        sample, right = one.sample, is_right(one, tasks, gold)
        if right is None:
            continue
        values = {}
        truth = 0 if right else taught.get((sample.item, sample.repeat))
        if truth is not None and sample.task in with_teacher:
            values["located"] = float(number == truth)
        if right:
            values["copied"] = float(rewrite.sample.response == sample.response)
        else:
            values["repaired"] = float(is_right(rewrite, tasks, gold) or False)
        scores.append(
            Score(
                task=sample.task,
                item=sample.item,
                index=sample.index,
                repeat=sample.repeat,
                values=values,
            )
        )
    return scores


def agree(scores: Sequence[Score]) -> Agreement:
    """Average the scores over items, with intervals, and report the result."""
    names = dict.fromkeys(score.task for score in scores)
    metrics = {metric for score in scores for metric in score.values}
    shares = {metric: Metric(name=metric, kind="continuous") for metric in metrics}
    agreed = Agreement(
        by_task={name: aggregate([s for s in scores if s.task == name], shares) for name in names}
    )
    say(f"the rewriter on items held out from it: {agreed.sentence() or 'none were held out'}")
    return agreed


def _prompts(
    engine: Engine, samples: Sequence[Sample], items: Mapping[str, Item], request: str
) -> list[str]:
    return [
        engine.render(conversation(items[sample.item].prompt, sample.response, request))
        for sample in samples
    ]


def _shown(result: MetricResult) -> str:
    if result.mean is None or result.low is None or result.high is None:
        return f"{result.mean} (n {result.n})"
    return f"{result.mean:.3f} [{result.low:.3f}, {result.high:.3f}] (n {result.n})"


# Open a rewriter ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class RewriterSource:
    """A trained rewriter, or None and the base from which the run trains its own."""

    base: Checkpoint
    trained: Checkpoint | None

    @property
    def digest(self) -> str:
        return digest([self.base.digest, self.trained.digest if self.trained else None])


def open_rewriter(
    config: Config, tasks: Mapping[str, Task], judge: Judge | None
) -> RewriterSource | None:
    """Find the rewriter, or its base, that the configuration names; None for other methods.

    Raises:
        UserError: the model is missing, has other tokens than the policy model, or has no teacher.
    """
    if config.method != "rlmec":
        return None
    settings = config.rlmec
    policy = model_folder.find(config.model, config.revision)
    base = Checkpoint(
        "the rewriter's base", model_folder.find(settings.base) if settings.base else policy
    )
    model_folder.check(base.model)
    trained = None
    if settings.rewriter is not None:
        folder = model_folder.find(settings.rewriter)
        if (folder / model_folder.ADAPTER_CONFIG).exists():
            trained = Checkpoint(NAME, base.model, folder)
        else:
            model_folder.check(folder)
            trained = Checkpoint(NAME, folder)
    else:
        _check_teachers(config, tasks, judge)
    for read in {base.model, trained.model if trained else base.model} - {policy}:
        _check_tokens(read, policy)
    return RewriterSource(base, trained)


def _check_teachers(config: Config, tasks: Mapping[str, Task], judge: Judge | None) -> None:
    if judge is not None:
        return
    for name, task in tasks.items():
        if config.rlmec.teacher == "judge" or task.rewrite is None:
            raise UserError(
                f"There is no teacher that corrects wrong answers to {name} for the rewriter. Name "
                "a judge's file as 'judge', or a trained rewriter as rlmec.rewriter."
            )


def _check_tokens(model: Path, policy: Path) -> None:
    """Check that rewriter and policy model have the same tokens, which token rewards need."""
    from harness.engines.loading import load_tokenizer

    read, written = (load_tokenizer(folder) for folder in (model, policy))
    if read.get_vocab() != written.get_vocab() or read.eos_token_id != written.eos_token_id:
        raise UserError(
            f"The rewriter in {model} has other tokens than the policy model in {policy}, so it "
            "cannot reward them. Train a rewriter from a model of the same family."
        )
