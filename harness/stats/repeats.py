"""Estimate what several responses per item show: pass@k, pass^k and maj@k.

Of n responses to an item, k could have been drawn in C(n, k) ways. Each metric is the mean over
these subsets, so it is an unbiased estimate of what k new responses would show:

    pass@k    one of k responses is right: 1 - C(n - c, k) / C(n, k) of c right ones
              (M. Chen et al., arXiv 2107.03374, section 2.1)
    pass^k    all k responses are right: C(c, k) / C(n, k) (S. Yao et al., arXiv 2406.12045)
    maj@k     the answer that most of k responses give is right (X. Wang et al., arXiv 2203.11171).
              Answers that tie share the vote evenly, as if the order of the responses decided

The value is one per item, so intervals and tests are over items. Names count the task's primary
metric, or the yes/no metric in brackets: `pass@4`, `pass@4(strict_match)`.

An item with a response that is unscored is unscored: nobody knows whether that response is right.
A response without an answer does not vote; where no response of a subset votes, their own values
count, which are those of missing answers.
"""

from __future__ import annotations

import functools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.core.errors import UserError
from harness.core.schema import Metric, Score
from harness.core.scored import ScoredEvaluation
from harness.core.text import did_you_mean, plural
from harness.stats.distributions import binomial_density

ANSWER = "answer"  # key of a score's details: the final answer, which maj@k votes on; None: none
ANSWERS = "answers"  # key of a score's details: the same for each metric, if they differ
RESPONSES = "responses"  # key of a score's details: what was found of each of several responses
MAX_VOTERS = 128  # responses per item of which subsets are taken for maj@k
_NAME = re.compile(r"(pass@|pass\^|maj@)([1-9][0-9]{0,5})(?:\((.+)\))?", re.DOTALL)
_MEANINGS = {
    "pass@": "one of {k} responses is right",
    "pass^": "all of {k} responses are right",
    "maj@": "the answer that most of {k} responses give is right",
}


@dataclass(frozen=True)
class RepeatMetric:
    """A metric of k responses per item; `of` is the yes/no metric that it counts, or primary."""

    name: str
    kind: str
    k: int
    of: str | None


def parse(name: str) -> RepeatMetric | None:
    """Read a name such as `pass@4`, `pass^8(strict_match)` or `maj@16`; None: another metric."""
    match = _NAME.fullmatch(name)
    return RepeatMetric(name, match[1], int(match[2]), match[3]) if match else None


def counted_by(name: str, definitions: Mapping[str, Metric]) -> str:
    """Return the metric of single responses that `name` counts: itself if it is one."""
    metric = parse(name) if name not in definitions else None
    return name if metric is None else metric.of or _primary(definitions)


def can_count(name: str, definitions: Mapping[str, Metric]) -> bool:
    """Tell whether `name` is a metric of several responses that counts one of `definitions`."""
    metric = parse(name) if name not in definitions else None
    base = definitions.get(counted_by(name, definitions))
    return metric is not None and base is not None and _counts_right(base)


# ---- one item -----------------------------------------------------------------------------------


def pass_at_k(n: int, right: int, k: int) -> float:
    """Estimate the chance that one of `k` responses is right, from `right` of `n` that are."""
    return 1.0 - _share_without(n, right, k)


def pass_all_k(n: int, right: int, k: int) -> float:
    """Estimate the chance that all of `k` responses are right (pass^k)."""
    return _share_without(n, n - right, k)


def _share_without(n: int, marked: int, k: int) -> float:
    """Return the share of subsets of `k` among `n` that hold none of the `marked`."""
    if not 1 <= k <= n:
        raise ValueError(f"there are no subsets of {k} among {n}")
    few, many = sorted((marked, k))  # C(n - m, k) / C(n, k) is symmetric in m and k
    return math.prod((n - many - i) / (n - i) for i in range(few)) if few + many <= n else 0.0


def majority_at_k(right: Sequence[float], votes: Sequence[object | None], k: int) -> float:
    """Estimate the chance that the majority of `k` responses is right.

    `right` and `votes` are of each response; None does not vote. The value of an answer is the
    mean over the responses that give it.
    """
    if not 1 <= k <= len(votes):
        raise ValueError(f"there are no subsets of {k} among {len(votes)}")
    groups: dict[object | None, list[float]] = defaultdict(list)
    for value, vote in zip(right, votes, strict=True):
        groups[vote].append(value)
    silent = groups.pop(None, [])
    answers = sorted((len(values), math.fsum(values) / len(values)) for values in groups.values())
    quiet = (len(silent), math.fsum(silent) / len(silent) if silent else 0.0)
    return _majority(tuple(answers), quiet, k)


@functools.lru_cache(maxsize=4096)
def _majority(answers: tuple[tuple[int, float], ...], silent: tuple[int, float], k: int) -> float:
    """Return the mean value of the majority over all subsets of `k`.

    `answers` are (responses, value) of each answer, `silent` those of the responses without one.
    Subsets are sorted by the votes w of their majority: answers that fewer than w responses give
    cannot reach it, and of the others one after the other is added. `ways[s, t]` is then the share
    of choices that hold s responses and t answers with w votes, and `values[s, t]` the sum of
    their values. Choices are weighed as if each response were drawn with chance k / n, which keeps
    the weights near 1 and cancels at the end.
    """
    n = silent[0] + sum(count for count, _ in answers)
    given = {value for count, value in (*answers, silent) if count}
    if len(given) == 1:
        return given.pop()
    if k == n:
        most = max((count for count, _ in answers), default=0)
        winners = [value for count, value in answers if count == most] or [silent[1]]
        return math.fsum(winners) / len(winners)
    share = k / n
    total = 0.0
    for w in range(1, min(k, max((count for count, _ in answers), default=0)) + 1):
        low = silent[0] + sum(count for count, _ in answers if count < w)
        high = [(count, value) for count, value in answers if count >= w]
        ways = np.zeros((k + 1, min(len(high), k // w) + 1))
        values = np.zeros_like(ways)
        ways[: min(low, k) + 1, 0] = _binomial(low, share)[: k + 1]
        for count, value in high:
            weights = _binomial(count, share)
            new_ways, new_values = np.zeros_like(ways), np.zeros_like(ways)
            for votes in range(w):
                new_ways[votes:] += weights[votes] * ways[: k + 1 - votes]
                new_values[votes:] += weights[votes] * values[: k + 1 - votes]
            tied, tied_values = ways[: k + 1 - w, :-1], values[: k + 1 - w, :-1]
            new_ways[w:, 1:] += weights[w] * tied
            new_values[w:, 1:] += weights[w] * (tied_values + value * tied)
            ways, values = new_ways, new_values
        total += float((values[k, 1:] / np.arange(1, values.shape[1])).sum())
    weight = _binomial(n, share)[k]
    nobody = _share_without(n, n - silent[0], k)
    return min(1.0, total / float(weight) + nobody * silent[1])


@functools.lru_cache(maxsize=4096)
def _binomial(n: int, share: float) -> Any:
    """Return the chance of 0 to `n` successes among `n`."""
    return binomial_density(np.arange(n + 1), n, share)


# ---- all items ----------------------------------------------------------------------------------


def with_repeat_metrics(scored: ScoredEvaluation, names: Iterable[str]) -> ScoredEvaluation:
    """Return the evaluation with those of `names` defined and valued that count its responses.

    Names that the evaluation defines itself, or that are of another form, are left alone. The
    first score of an item gets its value; of an item without one, each score gets the reason. The
    identity of the result is not that of the evaluation.

    Raises:
        UserError: the item has too few responses, or no right ones or answers can be counted.
    """
    known = scored.evaluation.definitions
    wanted = [m for name in dict.fromkeys(names) if name not in known and (m := parse(name))]
    if not wanted:
        return scored
    task = scored.evaluation.task
    definitions = {m.name: _define(m, scored) for m in wanted}
    bases = {m.name: counted_by(m.name, known) for m in wanted}
    scores: list[Score] = []
    for group in _by_item(scored.scores):
        responses = {base: _responses(group, base) for base in {*bases.values()}}
        values, reasons = {}, {}
        for metric in wanted:
            counted = responses[bases[metric.name]]
            counted.require(metric, task)
            if counted.reason:
                reasons[metric.name] = counted.reason
            elif counted.right:
                values[metric.name] = _value(metric, counted)
        first, *others = group
        more = {"values": first.values | values, "unscored": first.unscored | reasons}
        scores.append(first.model_copy(update=more))
        scores += [
            score.model_copy(update={"unscored": score.unscored | reasons}) if reasons else score
            for score in others
        ]
    return replace(scored.with_definitions(known | definitions), scores=scores)


def reported_names(scored: ScoredEvaluation, sizes: Sequence[int] | None = None) -> list[str]:
    """Name the metrics of several responses that are reported of an evaluation.

    `sizes` are the values of k: by default 2, 4, 8, ... and the number of responses per item. None
    if the items have one response each, or if the primary metric is not yes or no.
    """
    definitions = scored.evaluation.definitions
    primary = _primary(definitions)
    if not _is_counted(primary, scored):
        return []
    responses = [_responses(scores, primary) for scores in _by_item(scored.scores)]
    if any(one.absence for one in responses):
        return []
    n = min((one.count for one in responses), default=0)
    if sizes is None:
        powers = {2**i for i in range(1, n.bit_length())}
        # Where one score tells of several responses, its value is not their mean.
        alone = {1} if len(responses) == len(scored.scores) else set()
        sizes = sorted({*alone, *powers, n}) if n > 1 else []
    votes = any(one.votes is not None for one in responses)
    voted = [k for k in sizes if votes and (k == n or n <= MAX_VOTERS)]
    return [f"{kind}{k}" for kind in ("pass@", "pass^") for k in sizes] + [
        f"maj@{k}" for k in voted
    ]


@dataclass(frozen=True)
class _Responses:
    """What is known of the responses to one item, for one metric.

    `votes` are None where the task has no answers to vote on. `reason` says why the item is
    unscored, and `absence` why nothing of the kind can be computed of the evaluation.
    """

    count: int
    right: Sequence[float] = ()
    votes: Sequence[object | None] | None = None
    reason: str = ""
    absence: str = ""

    def require(self, metric: RepeatMetric, task: str) -> None:
        """Refuse a metric that these responses cannot give."""
        if metric.k > self.count:
            more = plural("response", metric.k)
            raise UserError(
                f"{metric.name} of {task} takes {metric.k:,} {more} per item, and the evaluation "
                f"has {self.count:,}. Evaluate with {metric.k} or more (--repeats, or `repeats:` "
                f"in a YAML of lm-eval), or choose a k of at most {self.count}."
            )
        if self.absence:
            raise UserError(f"{metric.name} of {task} cannot be computed: {self.absence}.")
        if metric.kind == "maj@" and self.right and not self.reason:
            if self.votes is None:
                raise UserError(
                    f"{metric.name} of {task} votes on answers, and the scores have none: the task "
                    f"states no details['{ANSWER}']. Choose pass@k or pass^k."
                )
            if self.count > MAX_VOTERS and metric.k < self.count:
                raise UserError(
                    f"{metric.name} of {task} is not computed from more than {MAX_VOTERS} "
                    f"responses per item, and the evaluation has {self.count:,}. Choose "
                    f"maj@{self.count}."
                )


def _by_item(scores: Sequence[Score]) -> list[list[Score]]:
    groups: dict[tuple[str, int], list[Score]] = defaultdict(list)
    for score in scores:
        groups[score.item, score.index].append(score)
    return [sorted(group, key=lambda score: score.repeat) for group in groups.values()]


def _responses(scores: Sequence[Score], base: str) -> _Responses:
    """Collect the responses to one item, which have a score each or are told of in one."""
    if len(scores) == 1 and isinstance(told := scores[0].details.get(RESPONSES), Mapping):
        return replace(_told(told, base), reason=scores[0].unscored.get(base, ""))
    n = len(scores)
    why = next((score.unscored[base] for score in scores if base in score.unscored), "")
    lacking = sum(base not in score.values for score in scores)
    if lacking == n and not why:
        return _Responses(n)  # the metric does not apply
    votes = _votes(scores, base)
    if lacking:
        why = why or "the metric does not apply"
        return _Responses(n, votes=votes, reason=f"{lacking} of {n} responses have no value: {why}")
    return _Responses(n, [score.values[base] for score in scores], votes)


def _told(told: Mapping[str, Any], base: str) -> _Responses:
    """Read what one score tells of several responses; see `harness.evals.lm_eval_repeats`."""
    count = told.get("count")
    if not isinstance(count, int) or count < 1:
        return _Responses(1)
    right, votes = _told_of(told, "right", base), _told_of(told, "votes", base)
    if (
        not isinstance(right, list)
        or [*map(type, right)] != [int] * count
        or not {*right} <= {0, 1}
    ):
        why = _told_of(told, "absence", base) or "its responses were not scored one by one"
        return _Responses(count, absence=str(why))
    if not isinstance(votes, list) or len(votes) != count:
        return _Responses(count, right)
    return _Responses(count, right, [*map(_vote, votes)])


def _told_of(told: Mapping[str, Any], key: str, base: str) -> Any:
    by_metric = told.get(key)
    return by_metric.get(base) if isinstance(by_metric, Mapping) else None


def _votes(scores: Sequence[Score], base: str) -> list[str | None] | None:
    """Return the answer of each response, as `base` compares it; None if the scores state none."""
    votes, is_stated = [], False
    for score in scores:
        answers: Mapping[str, Any] = score.details
        key = ANSWER
        if isinstance(by_metric := score.details.get(ANSWERS), Mapping):
            answers, key = by_metric, base
        is_stated |= key in answers
        votes.append(_vote(answers.get(key)))
    return votes if is_stated else None


def _vote(answer: Any) -> str | None:
    return None if answer is None else str(answer)


def _value(metric: RepeatMetric, responses: _Responses) -> float:
    if metric.kind == "maj@":
        return majority_at_k(responses.right, responses.votes or (), metric.k)
    right = sum(value == 1 for value in responses.right)
    estimate = pass_at_k if metric.kind == "pass@" else pass_all_k
    return estimate(responses.count, right, metric.k)


def _primary(definitions: Mapping[str, Metric]) -> str:
    return next((name for name, metric in definitions.items() if metric.primary), "")


def _counts_right(metric: Metric) -> bool:
    return metric.kind == "binary" and metric.higher_is_better


def _is_counted(base: str, scored: ScoredEvaluation) -> bool:
    """Tell whether responses are right or wrong by a metric, each by its score or as one tells."""
    metric = scored.evaluation.definitions.get(base)
    told = scored.scores[0].details.get(RESPONSES) if scored.scores else None
    return metric is not None and (
        _counts_right(metric) or (isinstance(told, Mapping) and bool(_told_of(told, "right", base)))
    )


def _define(metric: RepeatMetric, scored: ScoredEvaluation) -> Metric:
    """Define a metric of responses by the metric that it counts."""
    task, known = scored.evaluation.task, scored.evaluation.definitions
    base = counted_by(metric.name, known)
    counted = sorted(name for name in known if _is_counted(name, scored))
    instead = f" Name one that is: {metric.kind}{metric.k}({counted[0]})." if counted else ""
    if base not in known:
        fault = f"{task} has no metric '{base}'" if base else f"{task} has no primary metric"
        raise UserError(
            f"{metric.name} counts right responses, and {fault}."
            f"{did_you_mean(base, counted)}{instead}"
        )
    if base not in counted:
        raise UserError(
            f"{metric.name} counts right responses, and {base} of {task} is not a yes/no metric of "
            f"which yes is better.{instead}"
        )
    return Metric(
        name=metric.name,
        kind="binary",
        description=f"{base}: {_MEANINGS[metric.kind].format(k=metric.k)}",
    )
