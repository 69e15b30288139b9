"""Score responses that exist already, without a model.

Responses, judgments and verified facts are JSON lines, each with the `id` (or `index`) of an item
in its split, and the `repeat`, from 0, if items have several responses. Every item needs as many
responses. Without its judgment or fact list a response is unscored.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
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
from harness.core.text import listed, plural
from harness.evals import evaluation
from harness.evals.evaluate import EvalOptions, choose_items
from harness.evals.scoring import Generation, assemble, code_version, dataset_digest, score_samples
from tasks.task import Evidence, Judge, Task

R = TypeVar("R", bound=Record)

RECORDED = "recorded"  # name of the engine, the model and the judge, unless given


class Response(Record):
    """A line of the file of responses."""

    response: str
    finish_reason: FinishReason | None = None


class Judgment(Record):
    """A line of the file of judgments: a judge's reply, unchanged."""

    reply: str


@dataclass(frozen=True)
class RecordedReplies:
    """A file of replies, {"id", "reply"} per line, and the name of the judge that gave them."""

    path: Path
    judge_id: str = RECORDED


@dataclass
class RecordedJudge:
    """A judge that gives recorded replies, one per response in order; "" if there is none."""

    id: str
    replies: Sequence[str]
    digest: str | None = None

    def ask(self, calls: Sequence[Call]) -> list[Reply]:
        """Return the recorded replies.

        Raises:
            ValueError: the numbers of calls and recorded replies differ.
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
    judge: Judge | RecordedReplies | None = None,
    facts: Path | None = None,
    model_id: str | None = None,
    out: Path | None = None,
) -> ScoredEvaluation:
    """Score saved responses: a file, or the folder of an evaluation.

    A file has {"id", "response"} per line, one line for each item of the split; of several
    responses per item each has a number, {"id", "repeat", "response"}, from 0. `split` is the
    test split by default, else the gate split; `data` is where the task's data lie, and `model_id`
    names the model that responded. A folder records all of this, and is only scored again, for
    example with another judge.

    `judge` grades what needs a judge, now or by recorded replies: results of different judges are
    never compared. `facts` ({"id", "facts": [{"text", "supported"}]} per line, optionally
    "abstained") replace FActScore's decomposer and verifier. The evaluation is written to
    `out`/TASK if `out` is given.

    Raises:
        UserError: there is no such task, split or folder; a line is malformed; an id is unknown,
            repeated or missing; facts belong to another response; both `judge` and `facts` are
            given; `out` holds anything but evaluations, or another process works there.
    """
    task = tasks.load(task) if isinstance(task, str) else task
    recorded = judge.path if isinstance(judge, RecordedReplies) else None
    reads = (responses, data, recorded, facts)
    if out is not None:
        evaluation.check_out(out, [task.name], reads)
    if judge is not None and facts is not None:
        raise UserError(
            "A judge, its recorded replies and verified facts exclude each other: name one of them."
        )
    if facts is not None and task.evidence is None:
        raise UserError(f"{task.name} is not scored by facts; leave --facts out.")
    # The files that were named are read first: the items may have to come from the hub.
    replies = _read(recorded, Judgment) if recorded is not None else {}
    verified = _read(facts, task.evidence) if facts is not None and task.evidence else {}
    if not responses.is_dir():
        generation, items, samples = _read_responses(task, responses, split, data, model_id)
    elif split or data or model_id:
        raise UserError(
            f"{responses} says itself which split was asked, and of whom: leave split, data "
            "and model id out."
        )
    else:
        evaluations = evaluation.load(responses)
        if task.name not in evaluations:
            raise UserError(
                f"{responses} holds no evaluation of {task.name}, but of "
                f"{', '.join(sorted(evaluations))}."
            )
        saved = evaluations[task.name]
        generation = Generation.of(saved.evaluation)
        items, samples = saved.items, saved.samples
    with sole_user(out) if out else contextlib.nullcontext():
        if facts is not None and task.evidence is not None:
            _require_known(facts, verified, items)
            scores = _score_facts(task.evidence, facts, verified, samples)
            scored = assemble(task, items, samples, scores, generation, estimator="recorded facts")
        else:
            if isinstance(judge, RecordedReplies):
                _require_known(judge.path, replies, items)
                given = [replies.get((s.index, s.repeat)) for s in samples]
                texts = [reply.reply if reply else "" for reply in given]
                judge = RecordedJudge(judge.judge_id, texts)
            scored = score_samples(task, items, samples, generation, judge)
        if out is not None:
            evaluation.check_out(out, [task.name], reads)
            evaluation.save(scored, out / task.name)
    return scored


def _read_responses(
    task: Task, path: Path, split: str | None, data: Path | None, model_id: str | None
) -> tuple[Generation, Sequence[Item], Sequence[Sample]]:
    """Read a file of responses to a split of a task."""
    responses = _read(path, Response)
    split, items, _ = choose_items(task, EvalOptions(split=split, data=data))
    _require_known(path, responses, items)
    repeats: dict[int, list[int]] = defaultdict(list)
    for index, repeat in sorted(responses):
        repeats[index].append(repeat)
    if missing := [item.index for item in items if item.index not in repeats]:
        raise UserError(
            f"{path} lacks {len(missing)} of the {len(items)} responses to {task.name} "
            f'({split}): ids {listed(missing)}. Every item needs one; an empty response is "".'
        )
    most = max(map(len, repeats.values()))
    if uneven := [i for i, numbers in sorted(repeats.items()) if numbers != [*range(most)]]:
        raise UserError(
            f"{path}: some items have {most} {plural('response', most)}, but not the "
            f"{plural('item', len(uneven))} with id {listed(uneven)}. Give every item the same "
            'number, with "repeat" counted from 0.'
        )
    generation = Generation(
        task=task.name,
        split=split,
        model=ModelRef(id=check_name(model_id or RECORDED, "The name of the model")),
        engine=RECORDED,
        decoding={},
        prompt_digest=digest({"prompt": RECORDED}),
        dataset_digest=dataset_digest(items),
        code_version=code_version(),
    )
    samples = [
        Sample(
            task=item.task,
            item=item.digest,
            index=item.index,
            repeat=repeat,
            prompt=item.prompt,
            response=responses[item.index, repeat].response,
            finish_reason=responses[item.index, repeat].finish_reason,
        )
        for item in sorted(items, key=lambda item: item.index)
        for repeat in range(most)
    ]
    return generation, items, samples


def _score_facts(
    evidence: type[Evidence],
    path: Path,
    verified: Mapping[tuple[int, int], Evidence],
    samples: Sequence[Sample],
) -> list[Score]:
    scores = []
    for sample in samples:
        facts = verified.get((sample.index, sample.repeat))
        if facts is None:
            scores.append(evidence.score_without(sample))
        elif facts.response not in (None, sample.response):
            raise UserError(
                f"{path}, id {sample.index}: these facts were taken from another response than the "
                "one to be scored. Verify the response again, or score the one they belong to."
            )
        else:
            scores.append(facts.score(sample))
    return scores


def _read(path: Path, model: type[R]) -> dict[tuple[int, int], R]:
    """Read the lines of a file by index of the item, and repeat; ignore keys unknown to `model`."""
    records: dict[tuple[int, int], R] = {}
    lines: dict[tuple[int, int], int] = {}
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        key = index, repeat = _index(row, where), _repeat(row, where)
        if key in lines:
            which = f"id {index}" if "repeat" not in row else f"id {index}, repeat {repeat},"
            raise UserError(
                f"{where}: {which} was there before, in line {lines[key]}. If the item has several "
                'responses, number them: "repeat": 0, 1, ...'
            )
        lines[key] = number
        fields = {key: row[key] for key in model.model_fields if key in row}
        records[key] = parse(model, fields, where)
    return records


def _require_known(
    path: Path, records: Mapping[tuple[int, int], Record], items: Sequence[Item]
) -> None:
    """Refuse lines of items that the split does not have.

    Raises:
        UserError: there are some; the message names them.
    """
    known = {item.index for item in items}
    if unknown := sorted({index for index, _ in records if index not in known}):
        raise UserError(
            f"{path} names {len(unknown)} {plural('item', len(unknown))} that {items[0].task} "
            f"({items[0].split}) does not have: {plural('id', len(unknown))} {listed(unknown)}. "
            f"Its ids run from {min(known)} to {max(known)}; name another split, or "
            "the data that the responses are for."
        )


def _repeat(row: dict[str, Any], where: str) -> int:
    value = row.get("repeat", 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(
            f"{where}: 'repeat' is {str(value)[:40]!r}; the number of the response among those to "
            "its item is expected, from 0."
        )
    return value


def _index(row: dict[str, Any], where: str) -> int:
    value = row.get("id", row.get("index"))
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(
            f"{where}: 'id' is {str(value)[:40]!r}; the item's index in its split is expected."
        )
    return value
