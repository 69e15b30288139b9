"""An engine as lm-eval sees it: tasks are evaluated with what the trainer samples from."""

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
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
AT_A_TIME = 1024  # requests between two entries in lm-eval's cache


class EngineLM(TemplateLM):  # type: ignore[misc]  # lm-eval is untyped
    """An `Engine` as an lm-eval model; keeps the completion of each generated response.

    `completions` maps (task, doc id) to the completions of that document, by repeat, where the
    doc id is the position among the documents that were asked. `on_done(k)` is called after k
    more responses.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        seed: int = 0,
        on_done: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__()
        self.engine = engine
        self.seed = seed
        self.on_done = on_done
        self.tokenizer = engine.tokenizer
        self.completions: dict[tuple[str, int], list[Completion]] = {}

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The response to each request, in order; a request that comes k times gets k samples.

        Raises:
            UserError: a generation option that the engines do not have.
        """
        counts = Counter(map(id, requests))
        groups: dict[tuple[str, int], list[Instance]] = defaultdict(list)
        for request in {id(request): request for request in requests}.values():
            groups[canonical_json(request.args[1]), counts[id(request)]].append(request)
        made: dict[int, Iterator[Completion]] = {}
        # Where nothing is cached the engine gets all at once: many actors are busy until the end.
        is_cached = getattr(self.cache_hook, "dbdict", self.cache_hook) is not None
        at_a_time = AT_A_TIME if is_cached else len(requests)
        for (_, repeats), group in groups.items():
            sampling = replace(to_sampling(group[0].args[1], self.seed), n=repeats)
            group.sort(key=lambda request: -len(request.args[0]))
            for start in range(0, len(group), at_a_time):
                part = group[start : start + at_a_time]
                answers = self.engine.generate([r.args[0] for r in part], sampling, self.on_done)
                for request, completions in zip(part, answers, strict=True):
                    made[id(request)] = iter(completions)
                    self.completions[request.task_name, request.doc_id] = completions
                    for each in completions:
                        if not each.unanswered:
                            self.cache_hook.add_partial("generate_until", request.args, each.text)
        found = [next(made[id(request)]) for request in requests]
        if reasons := [each.unanswered for each in found if each.unanswered]:
            say(
                f"{len(reasons)} of {len(found)} responses are missing ({reasons[0]}). Benchmarks "
                "of this package leave them unscored; lm-eval's own tasks take them as empty."
            )
        return [each.text for each in found]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The prompt text of a conversation, whose last turn may be one to be continued."""
        turns = [Message.model_validate(turn) for turn in chat_history]
        if add_generation_prompt:
            return self.engine.render(turns)
        return self.engine.render(turns[:-1]) + turns[-1].content

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
        """(log-probability, is greedy) of each request's continuation after its context."""
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
        """The log-probability of each request's whole text, in windows of the model's context."""
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
            raise cannot_score(self.engine.name)
        return self.engine


def has_chat_template(engine: Engine) -> bool:
    """Whether prompts are conversations for this engine; one without a tokenizer is a service."""
    return engine.tokenizer is None or engine.tokenizer.chat_template is not None


def to_sampling(options: Mapping[str, Any], seed: int) -> Sampling:
    """lm-eval's generation options as a `Sampling` (of one response).

    As in lm-eval, `do_sample: false` is greedy whatever the temperature.

    Raises:
        UserError: an option that the engines do not have, or one of a wrong type.
    """
    known = {"until", "do_sample", "temperature", "top_p", *LENGTHS}
    if unknown := sorted(set(options) - known):
        raise UserError(
            f"The generation option '{unknown[0]}' is not supported; known are "
            f"{', '.join(sorted(known))}."
        )
    until = options.get("until") or []
    length = next((options[name] for name in LENGTHS if name in options), DEFAULT_MAX_TOKENS)
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
