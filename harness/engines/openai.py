"""An OpenAI-compatible server as an engine: hosted, vLLM, llama.cpp, `transformers serve`.

What weights a server has is its own affair; they are known by what the user calls them, or not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.progress import Advance
from harness.core.schema import Message, digest
from harness.engines import SEEDS, Completion, Sampling, seed_of
from harness.engines.template import check_template, render
from harness.engines.text import check_sampling, cut
from harness.engines.unanswered import MAX_UNANSWERED, Unanswered
from harness.serving.server import Batch, CallFailedError, Server, ServerGoneError
from harness.serving.settings import ServerSettings
from harness.serving.wire import (
    MAX_TOKENS,
    NO_TEXT,
    NotACompletionError,
    Wish,
    first_choice,
    read_content,
    token_limit,
)

SEED, STOP = Wish("a seed"), Wish("stop strings")


class OpenAIEngine:
    """A model behind a server.

    Each sample is a request, with a seed of its own where the server takes one. With a tokenizer a
    conversation is rendered here, by its template, and continued by `/completions`, as the local
    engines do. Without one it is the server's to render, and reaches `/chat/completions` as one
    user's turn: the contents of its messages, a blank line between them.

    Args:
        settings: the server; its `revision` is what the user calls the weights. Without it nobody
            knows whether they are those of yesterday, and `model_digest` is None.
        tokenizer: the model's tokenizer: its folder.
        key: sent as the bearer token, and shown nowhere.
        max_unanswered: share of a generation's responses that the server may refuse, each of which
            is then unscored; one more ends the generation.
    """

    name = "openai"
    tells_prompts = True  # `generate` takes `on_prompt`

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
            from harness.engines.loading import load_tokenizer

            self.tokenizer = load_tokenizer(tokenizer)
            check_template(self.tokenizer)
        self._settings = settings
        self._path = "/chat/completions" if tokenizer is None else "/completions"
        self._server = Server(settings, self._path, key)

    @property
    def description(self) -> str:
        """For people: the model, where it is, what it was found to refuse."""
        return self._server.description

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt text of a conversation."""
        return render(self.tokenizer, messages)

    def generate(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        on_done: Callable[[int], None] | None = None,
        on_prompt: Callable[[int, list[Completion]], None] | None = None,
        known: int = 0,
    ) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt, in order; `on_done(k)` after k more.

        Tokens are as the server counts them. At temperature 0 the samples of a prompt are one
        completion n times. What a server refuses is no longer sent: without a seed samples cannot
        be had again, without stop strings answers are cut here. A prompt that the server does not
        answer (its content filter, a prompt that is too long) gets a completion that says why.
        `on_prompt(place, completions)` is called as soon as a prompt has all of its completions;
        `known` completions of the same generation were answered before.

        Raises:
            UserError: there is no such server, key or model, the server is gone, or more
                completions are missing than `max_unanswered` allows.
        """
        check_sampling(sampling)
        each = 1 if sampling.temperature == 0 else sampling.n
        copies = sampling.n // each
        answers: dict[tuple[int, int], Completion] = {}
        places = [(p, j) for p in range(len(prompts)) for j in range(each)]
        missing = Unanswered(
            len(places) + known // copies, self._max_unanswered, self._settings.max_concurrency
        )

        if isinstance(on_done, Advance):
            on_done.at_once(copies * min(len(places), self._settings.max_concurrency))

        def of_prompt(p: int) -> list[Completion]:
            return [answers[p, j] for j in range(each)] * copies

        async def work(batch: Batch, place: tuple[int, int]) -> None:
            prompt, sample = prompts[place[0]], place[1]

            async def attempt(granted: Collection[Wish]) -> Completion:
                await self._server.turn(sampling.max_tokens)
                content = self._request(prompt, sample, sampling, granted)
                response = await self._server.post(batch, content)
                found = self._read(self._server.accept(response), sampling)
                read, written = found.prompt_tokens or 0, found.completion_tokens or 0
                self._server.give_back(sampling.max_tokens - read - written)
                return found

            try:
                answers[place] = await self._server.answer(batch, _wishes(sampling), attempt)
                missing.count_answered()
            except ServerGoneError as error:
                raise UserError(
                    f"{self._server.base} stopped answering: {error}. Run the same command again "
                    "when the server is well."
                ) from None
            except CallFailedError as error:
                answers[place] = Completion.missing(str(error))
                missing.count(f"prompt {place[0]} of {len(prompts)}: {error}", self._server.base)
            if on_done is not None:
                on_done(copies)
            if on_prompt is not None and all((place[0], j) in answers for j in range(each)):
                on_prompt(place[0], of_prompt(place[0]))

        self._server.run(places, work)
        return [of_prompt(p) for p in range(len(prompts))]

    def _request(
        self, prompt: str, sample: int, sampling: Sampling, granted: Collection[Wish]
    ) -> bytes:
        """The body that asks for one sample."""
        asked: dict[str, Any] = (
            {"messages": [{"role": "user", "content": prompt}]}
            if self.tokenizer is None
            else {"prompt": self._without_bos(prompt)}
        )
        body = {
            "model": self._settings.model,
            **asked,
            **token_limit(sampling.max_tokens, granted),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if SEED in granted:
            body["seed"] = seed_of(sampling, prompt, sample) % SEEDS
        if STOP in granted:
            body["stop"] = list(sampling.stop)
        # ASCII, since a lone surrogate in what a model wrote has no UTF-8.
        return json.dumps(body).encode()

    def _without_bos(self, prompt: str) -> str:
        """A rendered prompt without the BOS that the server, as its tokenizer does, adds itself."""
        bos, number = self.tokenizer.bos_token, self.tokenizer.bos_token_id
        if bos and number in self.tokenizer.encode(""):
            return prompt.removeprefix(bos)
        return prompt

    def _read(self, body: bytes, sampling: Sampling) -> Completion:
        """The completion in a reply.

        Raises:
            NotACompletionError: there is none.
            CallFailedError: the model did not give an answer, for example because a filter stopped
            it.
        """
        choice, usage = first_choice(body)
        content = read_content(choice)
        if content.problem == NO_TEXT:
            raise NotACompletionError(content.problem)
        if content.problem:
            raise CallFailedError(content.problem)
        is_cut = choice.get("finish_reason") == "length"
        # A model that declines has answered, wherever the server puts its words.
        told = self._server.clean(content.text or content.refusal)
        text, reason = cut(told, "length" if is_cut else "stop", sampling.stop)
        return Completion(text, reason, usage.prompt, usage.completion)


def _wishes(sampling: Sampling) -> list[Wish]:
    found = [MAX_TOKENS]
    if sampling.temperature > 0:
        found.append(SEED)
    if sampling.stop:
        found.append(STOP)
    return found
