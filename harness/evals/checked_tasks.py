"""See benchmarks of this package and tasks of lm-eval alike, to check what their scoring does."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from harness.core.errors import UserError
from harness.core.extras import name_missing_extra
from harness.core.schema import Item, Message, Metric, Sample
from harness.core.text import shorten
from harness.engines.prompts import render
from harness.evals.lm_eval_metrics import RANGES, UNIT
from harness.evals.stock_tasks import FEWSHOT_SEED, StockTask, no_exit, quiet_lm_eval
from tasks.task import Task, own_reference, quality

MAX_SECONDS = 20  # of one call of a benchmark's code
MAX_ENTRIES = 50_000  # read of a split
UNSAFE = (
    "its scoring runs code that a model wrote, and no code is run unless you ask for it: "
    "--confirm-run-unsafe-code"
)
TRAINING = ("train",)  # names of splits that models learn from

Kind = Literal["reference", "empty", "prompt", "other", "equal", "wrong"]
Quality = Mapping[str, float]
"""Metric -> where its value lies in the metric's range, from 0 (worst) to 1 (full marks)."""


class CallFailedError(Exception):
    """Report that the code of a benchmark raised an error or took too long."""


class NoAnswerError(Exception):
    """Report why a benchmark has no answer of a kind for an item."""


@dataclass(frozen=True)
class Entry:
    """An item of a split: what is asked, its right answer as text, and what the benchmark knows."""

    split: str
    index: int
    text: str
    gold: str
    source: Any

    @property
    def label(self) -> str:
        return f"{self.split} {self.index}"


@dataclass(frozen=True)
class Rendered:
    """A prompt as a model reads it, and the longest text that follows it."""

    prompt: str
    continuation: str = ""
    max_tokens: int = 0


class CheckedTask(Protocol):
    """What the checks need of a benchmark.

    Attributes:
        evaluated: the split that is evaluated.
        splits: the names of all splits; those in `training` are learned from.
        kinds: kinds of answers that can be scored.
        unscorable: why no answer can be scored here; "" if answers can.
    """

    name: str
    evaluated: str
    splits: Sequence[str]
    training: Sequence[str]
    kinds: Sequence[Kind]
    unscorable: str

    def entries(self, split: str) -> list[Entry]:
        """List the items of a split.

        Raises:
            UserError: its data cannot be had.
            CallFailedError: the benchmark's code fails.
        """
        ...

    def metrics(self) -> list[str]:
        """Describe the metrics: name, range and direction."""
        ...

    def score(self, entry: Entry, kind: Kind, other: Entry | None) -> Quality:
        """Score an answer of a kind; `other` is an item with another reference.

        Raises:
            NoAnswerError: there is no such answer, or it is unscored; says why.
            CallFailedError: the benchmark's code fails.
        """
        ...

    def rendered(self, entry: Entry, tokenizer: Any) -> Rendered:
        """Render the prompt of an item; without a tokenizer as plain text.

        Raises:
            UserError, CallFailedError: it cannot be rendered.
        """
        ...


@contextlib.contextmanager
def guarded(doing: str) -> Iterator[None]:
    """Turn errors of a benchmark's code into `CallFailedError`, and stop it after `MAX_SECONDS`.

    Outside of the main thread, where no signal arrives, time is not bounded.
    """
    bounded = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGALRM, _too_long) if bounded else None
    try:
        if bounded:
            signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
        with name_missing_extra(), quiet_lm_eval(), no_exit():
            yield
    except (UserError, NoAnswerError, CallFailedError):
        raise
    except _TooLongError as error:
        raise CallFailedError(f"{doing} took longer than {MAX_SECONDS} seconds") from error
    except Exception as error:  # a benchmark's code raises anything
        lines = (shorten(line, 300) for line in str(error).splitlines())
        message = next((line for line in lines if any(map(str.isalnum, line))), "no message")
        raise CallFailedError(f"{doing} raises {type(error).__name__}: {message}") from error
    finally:
        if bounded:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)


class _TooLongError(BaseException):
    """End a call that takes too long; code that catches every `Exception` does not catch it."""


def _too_long(*_: object) -> None:
    raise _TooLongError


def checked_tasks(
    task: Task | StockTask, data: Path | None = None, *, run_unsafe_code: bool = False
) -> list[CheckedTask]:
    """Return a benchmark as the checks see it; a group of lm-eval as its tasks."""
    if isinstance(task, Task):
        return [OwnTask(task, data)]
    return [
        LmEvalTask(name, member, run_unsafe_code=run_unsafe_code)
        for name, member in task.members.items()
    ]


class OwnTask:
    """A benchmark of this package or of a plugin."""

    unscorable = ""
    kinds: Sequence[Kind] = ("reference", "empty", "prompt", "other")

    def __init__(self, task: Task, data: Path | None = None) -> None:
        self.name = task.name
        self.splits: Sequence[str] = task.splits
        self.training: Sequence[str] = [split for split in task.splits if split in TRAINING]
        held_out = [split for split in task.splits if split not in TRAINING]
        self.evaluated = "test" if "test" in held_out else (held_out or list(task.splits))[0]
        self._task, self._data = task, data

    def entries(self, split: str) -> list[Entry]:
        with guarded(f"reading the {split} split"):
            items = self._task.items(split, self._data)[:MAX_ENTRIES]
        return [Entry(split, i.index, i.prompt, own_reference(i, ""), i) for i in items]

    def metrics(self) -> list[str]:
        return [_described(metric) for metric in self._task.metrics]

    def score(self, entry: Entry, kind: Kind, other: Entry | None) -> Quality:
        item: Item = entry.source
        if kind == "reference":
            response = entry.gold or self._rewritten(entry)
        elif kind == "other":
            response = other.gold or self._rewritten(other) if other else ""
        else:
            response = entry.text if kind == "prompt" else ""
        metric = self._task.primary
        with guarded(f"scoring {NAMED[kind]}"):
            (score,) = self._task.score([(item, _sample(item, response))])
            if metric.name in score.unscored:
                raise NoAnswerError(score.unscored[metric.name])
            if metric.name not in score.values:  # it does not apply to such an answer
                return {metric.name: 0.0}
            if metric.span is None:
                raise NoAnswerError(f"the range of {metric.name} is not known")
            return {metric.name: quality(metric, score.values[metric.name])}

    def _rewritten(self, entry: Entry) -> str:
        """Return the answer to which the benchmark corrects an empty one."""
        item = entry.source
        with guarded("correcting an empty answer"):
            (score,) = self._task.score([(item, sample := _sample(item, ""))])
            made = self._task.rewrite(item, sample, score) if self._task.rewrite else None
        if not made:
            raise NoAnswerError("its items have no reference answer (reference['answer'])")
        return made

    def rendered(self, entry: Entry, tokenizer: Any) -> Rendered:
        prompt = render(tokenizer, [Message(role="user", content=entry.text)])
        return Rendered(prompt, entry.gold, int(self._task.generation.get("max_tokens", 0)))


def _sample(item: Item, response: str) -> Sample:
    return Sample(
        task=item.task, item=item.digest, index=item.index, prompt=item.prompt, response=response
    )


NAMED: Mapping[Kind, str] = {
    "reference": "the reference answer",
    "empty": "an empty answer",
    "prompt": "the prompt as the answer",
    "other": "the reference of another item",
    "equal": "equal likelihoods",
    "wrong": "likelihoods that favour a wrong answer",
}


def _described(metric: Metric) -> str:
    ends = "range not known"
    if metric.low is not None and metric.high is not None:
        ends = f"{metric.low:g} to {metric.high:g}"
    better = "higher" if metric.higher_is_better else "lower"
    return f"{metric.name} ({ends}, {better} is better{', primary' if metric.primary else ''})"


class LmEvalTask:
    """A task of lm-eval. Its own code makes the prompts, filters the answers and scores them."""

    def __init__(self, name: str, task: Any, *, run_unsafe_code: bool = False) -> None:
        self.name, self._task, config = name, task, task.config
        self.training: Sequence[str] = [config.training_split] if config.training_split else []
        validation, test = config.validation_split, config.test_split
        self.evaluated = str(test or validation or "")
        shown = task.fewshot_cfg.split if hasattr(task, "fewshot_cfg") else None
        named = [*self.training, validation, test, shown]
        self.splits: Sequence[str] = list(dict.fromkeys(str(split) for split in named if split))
        self.output_type = str(task.OUTPUT_TYPE)
        kinds: Mapping[str, Sequence[Kind]] = {
            "generate_until": ("reference", "empty", "prompt", "other"),
            "multiple_choice": ("reference", "equal", "wrong"),
            "loglikelihood": ("reference", "wrong"),
        }
        self.kinds = kinds.get(self.output_type, ())
        self.unscorable = "" if self.kinds else f"{self.output_type} has no right answers"
        if getattr(task, "UNSAFE_CODE", False) and not run_unsafe_code:
            self.unscorable = UNSAFE
        if getattr(task, "MULTIMODAL", False):
            self.unscorable = "it asks about images or sounds"
        if hasattr(task, "set_fewshot_seed"):
            task.set_fewshot_seed(FEWSHOT_SEED)

    def entries(self, split: str) -> list[Entry]:
        with guarded(f"reading the {split} split"):
            docs = self._docs(split)
            docs = docs.select(range(min(len(docs), MAX_ENTRIES))) if _is_table(docs) else docs
        with guarded(f"making the prompts of the {split} split"):
            return [self._entry(split, index, doc) for index, doc in enumerate(docs)]

    def _docs(self, split: str) -> Any:
        task, config = self._task, self._task.config
        if split == config.test_split:
            return task.test_docs()
        if split == config.validation_split:
            return task.validation_docs()
        if split == config.training_split:
            return task.training_docs()
        return task.fewshot_docs()

    def _entry(self, split: str, index: int, doc: Any) -> Entry:
        text = self._task.doc_to_text(doc)
        choices = self._choices(doc)
        parts = [text] if isinstance(text, str) else []
        if choices and (self.output_type == "multiple_choice" or not parts):
            parts += choices
        if not isinstance(text, str):  # the choices are beginnings, which the target continues
            parts.append(self._task.doc_to_target(doc))
        targets = self._targets(doc)
        gold = str(targets[0]) if targets else ""
        return Entry(split, index, "\n".join(map(str, parts)), gold, doc)

    def _choices(self, doc: Any) -> list[str]:
        if self._task.config.doc_to_choice is None:
            return []
        return [str(choice) for choice in self._task.doc_to_choice(doc)]

    def _targets(self, doc: Any) -> list[str]:
        """Return the right answers as texts; none if the task names none."""
        if self._task.config.doc_to_target in (None, ""):
            return []
        target = self._task.doc_to_target(doc)
        choices = self._choices(doc)
        if self.output_type == "multiple_choice":
            return [choices[place] for place in self._right(doc, choices)]
        values = target if isinstance(target, list | tuple) else [target]
        return [
            choices[v] if choices and isinstance(v, int) and 0 <= v < len(choices) else str(v)
            for v in values
        ]

    def _right(self, doc: Any, choices: Sequence[str]) -> list[int]:
        """Return the places of the right choices that exist."""
        multiple = getattr(self._task, "multiple_input", 0)
        target = self._task.doc_to_text(doc) if multiple else self._task.doc_to_target(doc)
        values = target if isinstance(target, list | tuple) else [target]
        places = [choices.index(v) if v in choices else -1 for v in values if isinstance(v, str)]
        places += [v for v in values if isinstance(v, int)]
        return [place for place in places if 0 <= place < len(choices)]

    def metrics(self) -> list[str]:
        higher, how = self._task.higher_is_better(), self._task.aggregation()
        described = []
        for name, better in higher.items():
            low, high = RANGES.get(name, (None, None))
            ends = "range not known" if low is None else f"{low:g} to {high:g}"
            made = getattr(how.get(name), "__name__", "no aggregation")
            direction = "higher" if better else "lower"
            described.append(f"{name} ({ends}, {direction} is better, {made})")
        return described

    def score(self, entry: Entry, kind: Kind, other: Entry | None) -> Quality:
        answers: Sequence[Any]
        if self.output_type == "generate_until":
            answers = [self._response(entry, kind, other)]
        else:
            answers = self._likelihoods(entry, kind)
        with guarded(f"scoring {NAMED[kind]}"):
            return self._scored(entry, answers)

    def _response(self, entry: Entry, kind: Kind, other: Entry | None) -> str:
        if kind == "empty":
            return ""
        if kind == "prompt":
            return entry.text
        answered = entry if kind == "reference" else other
        targets = self._targets(answered.source) if answered else []
        is_text = targets and not isinstance(self._task.config.doc_to_target, int)
        if not is_text or not targets[0].strip():
            raise NoAnswerError("doc_to_target names no text")
        return self._as_generated(targets[0])

    def _as_generated(self, text: str) -> str:
        """Return as much of a text as a model can generate before it is stopped."""
        stops = (self._task.config.generation_kwargs or {}).get("until") or []
        stops = [stops] if isinstance(stops, str) else stops
        return min((text.partition(stop)[0] for stop in stops if stop), key=len, default=text)

    def _likelihoods(self, entry: Entry, kind: Kind) -> list[tuple[float, bool]]:
        if self.output_type == "loglikelihood":
            return [(-0.1, True) if kind == "reference" else (-50.0, False)]
        choices = self._choices(entry.source)
        right = self._right(entry.source, choices)
        if not right:
            target = self._task.doc_to_target(entry.source)
            raise CallFailedError(f"the target {str(target)[:80]!r} is none of its choices")
        favoured = set(right) if kind == "reference" else set()
        if kind == "wrong":
            favoured = set(range(len(choices))) - set(right)
            if not favoured:
                raise NoAnswerError("every choice is right")
        # So small that a choice stays behind if its likelihood is divided by its length.
        return [
            (-1.0, False) if kind == "equal" else (-0.1, True) if i in favoured else (-1e5, False)
            for i in range(len(choices))
        ]

    def _scored(self, entry: Entry, answers: Sequence[Any]) -> Quality:
        """Let lm-eval's filters and the task score the answers to all requests of an item."""
        task = self._task
        context = self._context(entry, 0, None)
        requests = task.construct_requests(entry.source, context, metadata=(self.name, 0, 1))
        requests = requests if isinstance(requests, list) else [requests]
        for number, request in enumerate(requests):
            request.resps = [
                answers[number % len(answers)] if number < len(answers) else (-1.0, False)
            ]
        for ensemble in task._filters:
            ensemble.apply(requests)
        names = [ensemble.name for ensemble in task._filters]
        higher = task.higher_is_better()
        qualities = {}
        for name in names:
            results = [request.filtered_resps[name] for request in requests]
            for metric, value in task.process_results(entry.source, results).items():
                if (better := higher.get(metric)) is None or not _is_number(value):
                    continue
                low, high = RANGES.get(metric, UNIT)
                share = (float(value) - low) / (high - low)
                if 0 <= share <= 1:
                    label = f"{metric},{name}" if len(names) > 1 else metric
                    qualities[label] = share if better else 1 - share
        if not qualities:
            raise NoAnswerError("no metric has a value between 0 and 1 per item")
        return qualities

    def _context(self, entry: Entry, shots: int, chat_template: Any) -> Any:
        task = self._task
        return task.fewshot_context(
            entry.source,
            num_fewshot=shots,
            apply_chat_template=chat_template is not None,
            chat_template=chat_template,
            gen_prefix=task.doc_to_prefix(entry.source) if hasattr(task, "doc_to_prefix") else None,
        )

    def rendered(self, entry: Entry, tokenizer: Any) -> Rendered:
        template = functools.partial(_chat, tokenizer) if _has_template(tokenizer) else None
        with guarded("making the prompt"):
            context = self._context(entry, int(self._task.config.num_fewshot or 0), template)
            contexts = [context] if isinstance(context, str) else list(context)
            choices = self._choices(entry.source) or self._targets(entry.source)
        longest = max(map(str, choices), key=len, default="")
        options = self._task.config.generation_kwargs or {}
        limit = next((options[k] for k in ("max_gen_toks", "max_tokens") if k in options), 256)
        generated = self.output_type == "generate_until"
        return Rendered(max(contexts, key=len), longest, int(limit) if generated else 0)


def _has_template(tokenizer: Any) -> bool:
    return tokenizer is not None and tokenizer.chat_template is not None


def _chat(tokenizer: Any, turns: Sequence[Mapping[str, str]], **options: Any) -> str:
    messages = [Message(role=turn["role"], content=turn["content"]) for turn in turns]  # type: ignore[arg-type]
    return render(tokenizer, messages, **options)


def _is_table(docs: Any) -> bool:
    return hasattr(docs, "select")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (
        hasattr(value, "item") and getattr(value, "ndim", 1) == 0
    )
