"""Ask an OpenAI-compatible server: hosted, vLLM, llama.cpp, `transformers serve`.

Nobody here can check which weights a server has; the user may name them, or they stay unknown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.progress import Advance
from harness.core.schema import digest
from harness.engines import (
    MAX_UNANSWERED,
    SEEDS,
    Completion,
    Likelihood,
    OnDone,
    Pair,
    RemoteEngine,
    Sampling,
    ScoringEngine,
    Unanswered,
    by_prompt,
    cannot_score,
    check_continuation,
    cut_at_stop,
    seed_of,
)
from harness.engines.loading import context_of, load_tokenizer
from harness.engines.prompts import check_template
from harness.serving.server import Batch, CallFailedError, Server, ServerDownError
from harness.serving.settings import ServerSettings
from harness.serving.wire import (
    MAX_TOKENS,
    NO_TEXT,
    Option,
    TransientError,
    first_choice,
    read_content,
    read_echo,
    token_limit,
)

SEED, STOP = Option("a seed"), Option("stop strings")


class OpenAIEngine(RemoteEngine, ScoringEngine):
    """A model behind an OpenAI-compatible server.

    Each sample is a request, with its own seed if the server accepts seeds. With a tokenizer,
    conversations are rendered here by its template and continued by `/completions`, as the local
    engines do. Without one, a conversation reaches `/chat/completions` as one user's turn, the
    contents of its messages separated by blank lines, and the server renders it.

    Args:
        settings: the server; its `revision` is the user's name for the weights. Without it nobody
            knows whether they are still those of yesterday, and `model_digest` is None.
        tokenizer: folder of the model's tokenizer.
        key: sent as the bearer token, and never shown.
        max_unanswered: share of a generation's responses that the server may refuse, each of which
            is then unscored; one more ends the generation.
    """

    name = "openai"

    def __init__(
        self,
        settings: ServerSettings,
        *,
        tokenizer: str | Path | None = None,
        key: str | None = None,
        max_unanswered: float = MAX_UNANSWERED,
    ) -> None:
        if not 0 <= max_unanswered <= 1:
            raise UserError(f"max_unanswered is {max_unanswered}; a share from 0 to 1 is needed.")
        self._max_unanswered = max_unanswered
        self.model_id = settings.model
        self.model_digest: str | None = None
        if settings.revision is not None:
            named = {"served as": settings.model, "revision": settings.revision}
            self.model_digest = digest(named)
        self.tokenizer: Any = None
        if tokenizer is not None:
            self.tokenizer = load_tokenizer(tokenizer)
            check_template(self.tokenizer)
            self.context = context_of(None, self.tokenizer)
        self._settings = settings
        path = "/chat/completions" if tokenizer is None else "/completions"
        self._server = Server(settings, path, key)

    @property
    def description(self) -> str:
        """Describe the model, its address and what the server refuses, for people."""
        return self._server.description

    def generate(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        on_done: OnDone | None = None,
        *,
        on_prompt: Callable[[int, list[Completion]], None] | None = None,
        known: int = 0,
    ) -> list[list[Completion]]:
        """Generate, and call `on_prompt(place, completions)` when a prompt has all its samples.

        Tokens are as the server counts them. An option that the server refuses is no longer sent:
        without a seed samples cannot be reproduced, without stop strings responses are cut here. A
        prompt that the server does not answer (its content filter, a prompt that is too long) gets
        a completion that says why. `known` completions of the same generation were answered before.

        Raises:
            UserError: there is no such server, key or model, the server stopped answering, or more
                completions are missing than `max_unanswered` allows.
        """
        sampling.check()
        each, copies = sampling.distinct, sampling.copies
        made: dict[tuple[int, int], Completion] = {}
        places = [(p, j) for p in range(len(prompts)) for j in range(each)]
        missing = Unanswered(
            len(places) + known // copies, self._max_unanswered, self._settings.max_concurrency
        )
        if isinstance(on_done, Advance):
            on_done.at_once(copies * min(len(places), self._settings.max_concurrency))

        async def work(batch: Batch, place: tuple[int, int]) -> None:
            prompt, sample = prompts[place[0]], place[1]

            async def attempt(options: Collection[Option]) -> Completion:
                await self._server.wait_turn(sampling.max_tokens)
                content = self._request(prompt, sample, sampling, options)
                response = await self._server.post(batch, content)
                completion = self._read(self._server.accept(response), sampling)
                read, written = completion.prompt_tokens or 0, completion.completion_tokens or 0
                self._server.give_back(sampling.max_tokens - read - written)
                return completion

            try:
                made[place] = await self._server.answer(batch, _optional(sampling), attempt)
                missing.count_answered()
            except ServerDownError as error:
                raise UserError(
                    f"{self._server.base} stopped answering: {error}. Run the same command again "
                    "when the server is well."
                ) from None
            except CallFailedError as error:
                made[place] = Completion.missing(str(error))
                missing.count(f"prompt {place[0]} of {len(prompts)}: {error}", self._server.base)
            if on_done is not None:
                on_done(copies)
            if on_prompt is not None and all((place[0], j) in made for j in range(each)):
                on_prompt(place[0], [made[place[0], j] for j in range(each)] * copies)

        self._server.run(places, work)
        return by_prompt(made, len(prompts), sampling)

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        """Score each continuation after its context; a pair too long loses its beginning.

        A request asks for the log-probabilities of a text's own tokens (`echo`), as lm-eval's
        `local-completions` does. Texts hold one token less than the tokenizer's limit, since a
        server generates one.

        Raises:
            UserError: there is no tokenizer, the server has no such log-probabilities, or it
                stopped answering.
        """
        if self.tokenizer is None:
            raise cannot_score(self, "its tokenizer is unknown; name its folder")
        texts: dict[tuple[int, ...], int] = {}  # text -> most tokens that are scored
        keys = []
        for before, after in pairs:
            check_continuation(after, self.context - 2)
            keys.append(ids := tuple((before + after)[-(self.context - 1) :]))
            texts[ids] = max(texts.get(ids, 0), len(after))
        told: dict[tuple[int, ...], list[Likelihood]] = {}

        async def work(batch: Batch, ids: tuple[int, ...]) -> None:
            async def attempt(_: Collection[Option]) -> list[Likelihood]:
                await self._server.wait_turn(len(ids))
                body = {
                    "model": self._settings.model,
                    "prompt": list(ids),
                    "temperature": 0,
                    "max_tokens": 1,
                    "logprobs": 1,
                    "echo": True,
                }
                response = await self._server.post(batch, json.dumps(body).encode())
                choice = first_choice(self._server.accept(response))[0]
                try:
                    return read_echo(choice, len(ids), texts[ids])
                except ValueError as error:
                    raise CallFailedError(str(error)) from None

            try:
                told[ids] = await self._server.answer(batch, [], attempt)
            except CallFailedError as error:
                raise cannot_score(self, f"{self._server.base}: {error}") from None

        self._server.run(list(texts), work)
        found = []
        for (_, after), ids in zip(pairs, keys, strict=True):
            last = told[ids][len(told[ids]) - len(after) :]
            found.append((math.fsum(value for value, _ in last), all(best for _, best in last)))
        return found

    def _request(
        self, prompt: str, sample: int, sampling: Sampling, options: Collection[Option]
    ) -> bytes:
        """Write the body of the request for one sample."""
        asked: dict[str, Any] = (
            {"messages": [{"role": "user", "content": prompt}]}
            if self.tokenizer is None
            else {"prompt": self._without_bos(prompt)}
        )
        body = {
            "model": self._settings.model,
            **asked,
            **token_limit(sampling.max_tokens, options),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if SEED in options:
            body["seed"] = seed_of(sampling, prompt, sample) % SEEDS
        if STOP in options:
            body["stop"] = list(sampling.stop)
        # ASCII, since a lone surrogate in what a model wrote has no UTF-8.
        return json.dumps(body).encode()

    def _without_bos(self, prompt: str) -> str:
        """Remove the BOS of a rendered prompt if the server's tokenizer adds it itself."""
        bos, number = self.tokenizer.bos_token, self.tokenizer.bos_token_id
        if bos and number in self.tokenizer.encode(""):
            return prompt.removeprefix(bos)
        return prompt

    def _read(self, body: bytes, sampling: Sampling) -> Completion:
        """Read the completion in a reply.

        Raises:
            TransientError: the reply has no completion.
            CallFailedError: the model gave no answer, for example because a filter stopped it.
        """
        choice, usage = first_choice(body)
        content = read_content(choice)
        if content.problem == NO_TEXT:
            raise TransientError(content.problem)
        if content.problem:
            raise CallFailedError(content.problem)
        is_cut = choice.get("finish_reason") == "length"
        # A model that declines has answered, wherever the server puts its words.
        told = self._server.clean(content.text or content.refusal)
        text, reason = cut_at_stop(told, "length" if is_cut else "stop", sampling.stop)
        return Completion(text, reason, usage.prompt, usage.completion)


def _optional(sampling: Sampling) -> list[Option]:
    seed = [SEED] if sampling.temperature > 0 else []
    return [MAX_TOKENS, *seed, *([STOP] if sampling.stop else [])]
