"""An OpenAI-compatible server as an engine: hosted, vLLM, llama.cpp, `transformers serve`.

What weights a server has is its own affair; they are known by what the user calls them, or not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from harness.engines import SEEDS, Completion, Sampling, seed_of
from harness.engines.text import check_sampling, cut, render
from harness.errors import UserError
from harness.schema import Message, digest
from harness.serving.server import Batch, FailedError, Server
from harness.serving.settings import ServerSettings
from harness.serving.wire import NotACompletionError, Wish, first_choice

SEED, STOP, MAX_TOKENS = Wish("a seed"), Wish("stop strings"), Wish("max_tokens")


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
    """

    name = "openai"

    def __init__(
        self,
        settings: ServerSettings,
        *,
        tokenizer: str | Path | None = None,
        key: str | None = None,
    ) -> None:
        self.model_id = settings.model
        self.model_digest: str | None = None
        if settings.revision is not None:
            named = {"served as": settings.model, "revision": settings.revision}
            self.model_digest = digest(named)
        self.tokenizer: Any = None
        if tokenizer is not None:
            from harness.engines.loading import load_tokenizer

            self.tokenizer = load_tokenizer(tokenizer)
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
    ) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt, in order; `on_done(k)` after k more.

        Tokens are as the server counts them. At temperature 0 the samples of a prompt are one
        completion n times. What a server refuses is no longer sent: without a seed samples cannot
        be had again, without stop strings answers are cut here.

        Raises:
            UserError: there is no such server, key or model, or one of the prompts cannot be
                answered, as it is too long or the server's filter stops the answer.
        """
        check_sampling(sampling)
        each = 1 if sampling.temperature == 0 else sampling.n
        copies = sampling.n // each
        answers: dict[tuple[int, int], Completion] = {}

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
            except FailedError as error:
                raise UserError(
                    f"{self._server.base} cannot answer prompt {place[0]} of {len(prompts)}: "
                    f"{error}."
                ) from None
            if on_done is not None:
                on_done(copies)

        self._server.run([(p, j) for p in range(len(prompts)) for j in range(each)], work)
        return [[answers[p, j] for j in range(each)] * copies for p in range(len(prompts))]

    def _request(
        self, prompt: str, sample: int, sampling: Sampling, granted: Collection[Wish]
    ) -> bytes:
        """The body that asks for one sample."""
        asked: dict[str, Any] = (
            {"messages": [{"role": "user", "content": prompt}]}
            if self.tokenizer is None
            else {"prompt": self._without_bos(prompt)}
        )
        length = "max_tokens" if MAX_TOKENS in granted else "max_completion_tokens"
        body = {
            "model": self._settings.model,
            **asked,
            length: sampling.max_tokens,
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
            FailedError: the server's filter stopped it.
        """
        choice, usage = first_choice(body)
        if choice.get("finish_reason") == "content_filter":
            raise FailedError("the server's content filter stopped the answer")
        message = choice if self.tokenizer is not None else choice.get("message")
        name = "text" if self.tokenizer is not None else "content"
        if not isinstance(message, dict) or not isinstance(message.get(name) or "", str):
            raise NotACompletionError("the server's reply has no text")
        is_cut = choice.get("finish_reason") == "length"
        told = self._server.clean(message.get(name) or "")
        text, reason = cut(told, "length" if is_cut else "stop", sampling.stop)
        return Completion(text, reason, usage.prompt, usage.completion)


def _wishes(sampling: Sampling) -> list[Wish]:
    found = [MAX_TOKENS]
    if sampling.temperature > 0:
        found.append(SEED)
    if sampling.stop:
        found.append(STOP)
    return found
