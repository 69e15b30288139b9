"""Let lm-eval use an engine as its model, so that tasks and training share one engine."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from harness.core.errors import UserError
from harness.core.files import read_records, write_jsonl
from harness.core.log import say
from harness.core.progress import already
from harness.core.schema import Message, Record, canonical_json, digest
from harness.engines import (
    Completion,
    Engine,
    Likelihood,
    Pair,
    Sampling,
    ScoringEngine,
    cannot_score,
)
from harness.engines.loading import require_end
from harness.engines.resume import ResumableEngine

DEFAULT_MAX_TOKENS = 256  # lm-eval's own
LENGTH_OPTIONS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
CACHED_TOGETHER = 1024  # requests: lm-eval's cache is written after so many
PAIRS_PER_PART = 4096  # likelihoods: kept after so many


class _Likelihood(Record):
    """A likelihood on disk."""

    logprob: float
    greedy: bool


class EngineLM(TemplateLM):  # type: ignore[misc]  # lm-eval is untyped
    """Adapt an `Engine` to lm-eval's model interface.

    `on_done(k)` is called after k more responses or likelihoods. Those that are done are kept in
    the folder `kept`, if it is given, from where an interrupted evaluation resumes.
    """

    def __init__(self, engine: Engine, *, seed: int = 0, kept: Path | None = None) -> None:
        super().__init__()
        self.engine = engine
        self.seed = seed
        self.on_done: Callable[[int], None] | None = None
        self.tokenizer = engine.tokenizer
        self._kept = kept
        self._generator = ResumableEngine(engine, kept) if kept else engine

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Generate a response per request, in order; k equal requests get k samples.

        Raises:
            UserError: the engines do not support a generation option.
        """
        counts = Counter(map(id, requests))
        different = list({id(request): request for request in requests}.values())
        answers = self.complete(different, [counts[id(request)] for request in different])
        made = {id(request): iter(a) for request, a in zip(different, answers, strict=True)}
        return [next(made[id(request)]).text for request in requests]

    def complete(
        self, requests: Sequence[Instance], repeats: Sequence[int]
    ) -> list[list[Completion]]:
        """Generate completions of each request, as many as `repeats` says.

        Raises:
            UserError: the engines do not support a generation option.
        """
        groups: dict[tuple[str, int], list[int]] = defaultdict(list)
        for place, (request, count) in enumerate(zip(requests, repeats, strict=True)):
            groups[canonical_json(request.args[1]), count].append(place)
        made: dict[int, list[Completion]] = {}
        # Without a cache the engine gets all requests at once, which keeps many actors busy.
        is_cached = getattr(self.cache_hook, "dbdict", self.cache_hook) is not None
        at_a_time = CACHED_TOGETHER if is_cached else len(requests)
        for (_, count), places in groups.items():
            sampling = replace(to_sampling(requests[places[0]].args[1], self.seed), n=count)
            places.sort(key=lambda place: -len(requests[place].args[0]))
            for start in range(0, len(places), at_a_time):
                part = places[start : start + at_a_time]
                prompts = [requests[place].args[0] for place in part]
                answers = self._generator.generate(prompts, sampling, self.on_done)
                for place, completions in zip(part, answers, strict=True):
                    made[place] = completions
                    for completion in completions:
                        if not completion.unanswered:
                            self.cache_hook.add_partial(
                                "generate_until", requests[place].args, completion.text
                            )
        in_order = [made[place] for place in range(len(requests))]
        if reasons := [
            c.unanswered for completions in in_order for c in completions if c.unanswered
        ]:
            say(
                f"{len(reasons)} of {sum(repeats)} responses are missing ({reasons[0]}). "
                "Evaluations leave them unscored; lm-eval itself takes them as empty."
            )
        return in_order

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation as a prompt; its last message may be one to continue."""
        messages = [Message.model_validate(message) for message in chat_history]
        if add_generation_prompt:
            return self.engine.render(messages)
        return self.engine.render(messages[:-1]) + messages[-1].content

    @property
    def tokenizer_name(self) -> str:
        return self.engine.model_id.replace("/", "__")

    @property
    def eot_token_id(self) -> int:
        return require_end(self._scoring_engine.tokenizer)

    @property
    def prefix_token_id(self) -> int:
        bos = self._scoring_engine.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        if add_special_tokens is None:
            return self._scoring_engine.encode(string)
        tokenizer = self._scoring_engine.tokenizer
        return list(tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Compute (log-probability, is greedy) of each continuation, given its context."""
        return list(super().loglikelihood(requests, disable_tqdm=True))

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context, target) for _, context, target in requests]
        scored = self._score(pairs, self.on_done)
        for (request, _, _), answer in zip(requests, scored, strict=True):
            self.cache_hook.add_partial("loglikelihood", request, answer)
        return scored

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """Compute the log-probability of each whole text, in windows of the model's context."""
        windows = [
            [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self._scoring_engine.context,
                    context_len=1,
                )
            ]
            for request in requests
        ]
        scored = iter(self._score([pair for pairs in windows for pair in pairs], None))
        totals = []
        for request, pairs in zip(requests, windows, strict=True):
            total = sum(value for value, _ in itertools.islice(scored, len(pairs)))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            totals.append(total)
        if self.on_done is not None:
            self.on_done(len(requests))
        return totals

    def _score(
        self, pairs: Sequence[Pair], on_done: Callable[[int], None] | None
    ) -> list[Likelihood]:
        """Score pairs in parts, each kept as soon as it is scored, or read if it was kept."""
        engine = self._scoring_engine
        scored: list[Likelihood] = []
        for start in range(0, len(pairs), PAIRS_PER_PART):
            part = pairs[start : start + PAIRS_PER_PART]
            path = None
            if self._kept is not None and engine.model_digest is not None:
                path = self._kept / digest([engine.name, engine.model_digest, part])
            known = _read_likelihoods(path, len(part)) if path else None
            if known is None:
                known = engine.loglikelihood(part)
                if path and all(math.isfinite(value) for value, _ in known):
                    write_jsonl(path, [{"logprob": v, "greedy": bool(g)} for v, g in known])
                if on_done is not None:
                    on_done(len(part))
            elif on_done is not None:
                already(on_done, len(part))
            scored += known
        return scored

    def require_likelihoods(self) -> None:
        """Refuse an engine that cannot say how likely a text is.

        Raises:
            UserError: the engine only generates.
        """
        if type(self._scoring_engine).loglikelihood is ScoringEngine.loglikelihood:
            raise cannot_score(self.engine)

    @property
    def _scoring_engine(self) -> ScoringEngine:
        if not isinstance(self.engine, ScoringEngine):
            raise cannot_score(self.engine)
        if self.engine.tokenizer is None:
            raise cannot_score(self.engine, "its tokenizer is unknown; name its folder")
        return self.engine


def _read_likelihoods(path: Path, count: int) -> list[Likelihood] | None:
    """Read `count` likelihoods that were kept; None if there are none or the file is damaged."""
    if not path.is_file():
        return None
    with contextlib.suppress(UserError):
        rows = read_records(path, _Likelihood)
        if len(rows) == count:
            return [(row.logprob, row.greedy) for row in rows]
    return None


def has_chat_template(engine: Engine) -> bool:
    """Tell whether the engine takes prompts as conversations; no tokenizer: it is a service."""
    return engine.tokenizer is None or engine.tokenizer.chat_template is not None


def to_sampling(options: Mapping[str, Any], seed: int) -> Sampling:
    """Convert lm-eval's generation options to the `Sampling` of one response.

    As in lm-eval, `do_sample: false` is greedy whatever the temperature.

    Raises:
        UserError: an option is not supported, or has the wrong type.
    """
    known = {"until", "do_sample", "temperature", "top_p", *LENGTH_OPTIONS}
    options = {k: v for k, v in options.items() if (k, v) != ("num_beams", 1)}
    if unknown := sorted(set(options) - known):
        raise UserError(
            f"The generation option '{unknown[0]}' is not supported; known are "
            f"{', '.join(sorted(known))}."
        )
    until = options.get("until") or []
    length = next((options[name] for name in LENGTH_OPTIONS if name in options), DEFAULT_MAX_TOKENS)
    greedy = options.get("do_sample") is False
    try:
        return Sampling(
            temperature=0.0 if greedy else float(options.get("temperature", 0.0)),
            top_p=float(options.get("top_p", 1.0)),
            max_tokens=int(length),
            stop=(until,) if isinstance(until, str) else tuple(s for s in until if s),
            seed=seed,
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"A generation option is not a number: {dict(options)}.") from error
