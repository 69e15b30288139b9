"""Let lm-eval use an engine as its model, so that tasks and training share one engine."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from harness.core.errors import UserError
from harness.core.log import say
from harness.core.schema import Message, canonical_json
from harness.engines import Completion, Engine, LocalEngine, Sampling, cannot_score
from harness.engines.loading import require_end

DEFAULT_MAX_TOKENS = 256  # lm-eval's own
LENGTH_OPTIONS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
CACHED_TOGETHER = 1024  # requests: lm-eval's cache is written after so many


class EngineLM(TemplateLM):  # type: ignore[misc]  # lm-eval is untyped
    """Adapt an `Engine` to lm-eval's model interface, and keep all completions.

    `completions` maps (task, doc id) to the completions of a document, by repeat; the doc id is
    the position among the documents that were asked. `on_done(k)` is called after k more
    responses.
    """

    def __init__(self, engine: Engine, *, seed: int = 0) -> None:
        super().__init__()
        self.engine = engine
        self.seed = seed
        self.on_done: Callable[[int], None] | None = None
        self.tokenizer = engine.tokenizer
        self.completions: dict[tuple[str, int], list[Completion]] = {}

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Generate a response per request, in order; k equal requests get k samples.

        Raises:
            UserError: the engines do not support a generation option.
        """
        counts = Counter(map(id, requests))
        groups: dict[tuple[str, int], list[Instance]] = defaultdict(list)
        for request in {id(request): request for request in requests}.values():
            groups[canonical_json(request.args[1]), counts[id(request)]].append(request)
        made: dict[int, Iterator[Completion]] = {}
        # Without a cache the engine gets all requests at once, which keeps many actors busy.
        is_cached = getattr(self.cache_hook, "dbdict", self.cache_hook) is not None
        at_a_time = CACHED_TOGETHER if is_cached else len(requests)
        for (_, repeats), group in groups.items():
            sampling = replace(to_sampling(group[0].args[1], self.seed), n=repeats)
            group.sort(key=lambda request: -len(request.args[0]))
            for start in range(0, len(group), at_a_time):
                part = group[start : start + at_a_time]
                answers = self.engine.generate([r.args[0] for r in part], sampling, self.on_done)
                for request, completions in zip(part, answers, strict=True):
                    made[id(request)] = iter(completions)
                    self.completions[request.task_name, request.doc_id] = completions
                    for completion in completions:
                        if not completion.unanswered:
                            self.cache_hook.add_partial(
                                "generate_until", request.args, completion.text
                            )
        in_order = [next(made[id(request)]) for request in requests]
        if reasons := [c.unanswered for c in in_order if c.unanswered]:
            say(
                f"{len(reasons)} of {len(in_order)} responses are missing ({reasons[0]}). The "
                "benchmarks of this package leave them unscored; lm-eval's own tasks take them "
                "as empty."
            )
        return [completion.text for completion in in_order]

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
        return require_end(self._local_engine.tokenizer)

    @property
    def prefix_token_id(self) -> int:
        bos = self._local_engine.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        if add_special_tokens is None:
            return self._local_engine.encode(string)
        tokenizer = self._local_engine.tokenizer
        return list(tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Compute (log-probability, is greedy) of each continuation, given its context."""
        return list(super().loglikelihood(requests, disable_tqdm=True))

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        scored = self._local_engine.loglikelihood([(a, b) for _, a, b in requests])
        for (request, _, _), answer in zip(requests, scored, strict=True):
            self.cache_hook.add_partial("loglikelihood", request, answer)
        if self.on_done is not None:
            self.on_done(len(requests))
        return scored

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """Compute the log-probability of each whole text, in windows of the model's context."""
        totals = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._local_engine.context,
                context_len=1,
            )
            pairs = [make_disjoint_window(window) for window in windows]
            total = sum(value for value, _ in self._local_engine.loglikelihood(pairs))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
            totals.append(total)
        if self.on_done is not None:
            self.on_done(len(requests))
        return totals

    @property
    def _local_engine(self) -> LocalEngine:
        if not isinstance(self.engine, LocalEngine):
            raise cannot_score(self.engine)
        return self.engine


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
