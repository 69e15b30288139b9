"""Score responses that are there already: no model is loaded, nothing is generated.

Responses, judgments and verified facts are JSON lines, each with the `id` (or `index`) of an item
in its split. Responses are whole; a judgment or a fact list may be absent, and then what it would
have scored is unscored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tasks
from harness.core.errors import UserError
from harness.core.files import parse, read_jsonl
from harness.core.folders import sole_user
from harness.core.schema import (
    Call,
    FinishReason,
    Item,
    ModelRef,
    Record,
    Reply,
    Sample,
    Score,
    check_name,
    digest,
)
from harness.core.scored import ScoredEvaluation
from harness.evals import evaluation
from harness.evals.evaluation import few
from tasks.factscore.scoring import Fact, facts_score, unverified_score
from tasks.task import Judge, Task

R = TypeVar("R", bound=Record)

ENGINE = "recorded"


class Response(Record):
    """One line of the responses."""

    response: str
    finish_reason: FinishReason | None = None


class Judgment(Record):
    """One line of the judgments: a judge's reply, as it came."""

    reply: str


class VerifiedFacts(Record):
    """One line of the facts; `response` is what they were taken from, `abstained` else detected."""

    facts: list[Fact]
    response: str | None = None
    abstained: bool | None = None


@dataclass
class RecordedJudge:
    """A judge whose replies are known: one for each answer, in order; "" where there is none."""

    id: str
    replies: Sequence[str]
    digest: str | None = None

    def ask(self, calls: Sequence[Call]) -> list[Reply]:
        """The recorded replies.

        Raises:
            ValueError: it is asked about another number of answers than it has replies for.
        """
        if len(calls) != len(self.replies):
            raise ValueError(f"{len(self.replies)} replies were recorded, for {len(calls)}")
        return [Reply(text=reply) for reply in self.replies]


def score(
    task: str | Task,
    responses: Path,
    *,
    split: str | None = None,
    data: Path | None = None,
    judge: Judge | None = None,
    judgments: Path | None = None,
    facts: Path | None = None,
    model_id: str | None = None,
    judge_id: str = "recorded",
    out: Path | None = None,
) -> ScoredEvaluation:
    """Score responses that were saved: a file, or the folder of an evaluation.

    A file has {"id", "response"} a line, one for each item of the split. Without a `split` it is
    the task's test split, else its gate split; `data` is where the task's data lie, `model_id`
    who answered. A folder says all this itself, and is scored anew, as by another judge.

    `judge` grades what needs a judge. In its place `judgments` ({"id", "reply"} a line) are what
    a judge named `judge_id` said before: results under different judges are never compared.
    `facts` ({"id", "facts": [{"text", "supported"}]} a line, with "abstained" where it is known)
    stand in for FActScore's decomposer and verifier. Written to `out`/TASK if `out` is given.

    Raises:
        UserError: no such task, split or folder; a malformed line; an id that is foreign, there
            twice or missing; facts of another response; two ways to judge at once; `out` holds
            what is not an evaluation, or another process works there.
    """
    plugin = tasks.load(task) if isinstance(task, str) else task
    reads = (responses, data, judgments, facts)
    if out is not None:
        evaluation.check_out(out, [plugin.name], reads)
    if sum(way is not None for way in (judge, judgments, facts)) > 1:
        raise UserError(
            "A judge, its recorded replies and verified facts exclude each other: name one of them."
        )
    if responses.is_dir():
        if split or data or model_id:
            raise UserError(
                f"{responses} says itself which split was asked, and of whom: leave split, data "
                "and model id out."
            )
        items, samples, about = _saved(plugin, responses)
    else:
        items, samples, about = _recorded(plugin, responses, split, data, model_id or ENGINE)
    if facts is not None and plugin.name != "factscore":
        raise UserError(f"{plugin.name} is not scored by facts; leave --facts out.")
    with sole_user(out) if out else contextlib.nullcontext():
        if facts is not None:
            scores = _score_facts(facts, items, samples)
            scored = evaluation.assemble(
                plugin, items, samples, scores, estimator="recorded facts", **about
            )
        else:
            if judgments is not None:
                said = _by_item(judgments, items, Judgment)
                replies = {index: judgment.reply for index, judgment in said.items()}
                judge = RecordedJudge(
                    judge_id, [replies.get(sample.index, "") for sample in samples]
                )
            scored = evaluation.build(plugin, items, samples, judge=judge, **about)
        if out is not None:
            evaluation.check_out(out, [plugin.name], reads)
            evaluation.save(scored, out / plugin.name)
    return scored


_Answers = tuple[Sequence[Item], Sequence[Sample], dict[str, Any]]


def _saved(plugin: Task, folder: Path) -> _Answers:
    """What an evaluation folder holds: the items, the samples, and whose they are."""
    found = evaluation.load(folder)
    if plugin.name not in found:
        raise UserError(
            f"{folder} holds no evaluation of {plugin.name}, but of {', '.join(sorted(found))}."
        )
    saved = found[plugin.name]
    kept = ("model", "engine", "decoding", "split", "prompt_digest", "seed")
    about = {name: getattr(saved.evaluation, name) for name in kept}
    return saved.items, saved.samples, about


def _recorded(
    plugin: Task, path: Path, split: str | None, data: Path | None, model_id: str
) -> _Answers:
    """What a file of responses holds."""
    split, items, _ = evaluation.choose(plugin, split, data)
    answers = _by_item(path, items, Response)
    if lacking := [item.index for item in items if item.index not in answers]:
        raise UserError(
            f"{path} lacks {len(lacking)} of the {len(items)} responses to {plugin.name} "
            f'({split}): ids {few(lacking)}. Every item needs one; an empty response is "".'
        )
    about: dict[str, Any] = {
        "model": ModelRef(id=check_name(model_id, "The name of the model")),
        "engine": ENGINE,
        "decoding": {},
        "split": split,
        "prompt_digest": digest({"prompt": ENGINE}),
    }
    return items, [_sample(item, answers[item.index]) for item in items], about


def _sample(item: Item, answer: Response) -> Sample:
    return Sample(
        task=item.task,
        item=item.digest,
        index=item.index,
        prompt=item.prompt,
        response=answer.response,
        finish_reason=answer.finish_reason,
    )


def _score_facts(path: Path, items: Sequence[Item], samples: Sequence[Sample]) -> list[Score]:
    found = _by_item(path, items, VerifiedFacts)
    asked = {item.digest: item for item in items}
    scores = []
    for sample in samples:
        item = asked[sample.item]
        verified = found.get(item.index)
        if verified is None:
            scores.append(unverified_score(item, sample, "no facts were recorded"))
        elif verified.response not in (None, sample.response):
            raise UserError(
                f"{path}, id {item.index}: these facts were taken from another response than the "
                "one to be scored. Verify the response again, or score the one they belong to."
            )
        else:
            scores.append(facts_score(item, sample, verified.facts, verified.abstained))
    return scores


def _by_item(path: Path, items: Sequence[Item], model: type[R]) -> dict[int, R]:
    """The lines of a file by the index of their item; keys that `model` has not are passed over."""
    known = {item.index for item in items}
    found: dict[int, R] = {}
    lines: dict[int, int] = {}
    foreign = []
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        index = _index(row, where)
        if index in lines:
            raise UserError(f"{where}: id {index} was there before, in line {lines[index]}.")
        lines[index] = number
        if index not in known:
            foreign.append(index)
            continue
        found[index] = parse(model, {k: row[k] for k in model.model_fields if k in row}, where)
    if foreign:
        raise UserError(
            f"{path} names items that {items[0].task} ({items[0].split}) has not, {len(foreign)} "
            f"in all: ids {few(foreign)}. Its ids run from {min(known)} to {max(known)}; name "
            "another split, or the data that the responses are for."
        )
    return found


def _index(row: dict[str, Any], where: str) -> int:
    value = row.get("id", row.get("index"))
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(
            f"{where}: 'id' is {str(value)[:40]!r}; the item's index in its split is expected."
        )
    return value
