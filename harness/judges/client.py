"""A judge behind an OpenAI-compatible chat server."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from harness.core.errors import UserError
from harness.core.schema import Call, Reply, digest
from harness.judges.backend import Answer, Done
from harness.judges.budget import Meter, Tokens
from harness.judges.settings import JudgeSettings
from harness.judges.wire import read, request, wishes
from harness.serving.server import Batch, CallFailedError, Server, UnreachableError
from harness.serving.wire import Wish


class ChatServer:
    """A chat server as a judge's backend; see `Server`."""

    def __init__(self, settings: JudgeSettings, key: str | None = None) -> None:
        self.id = settings.model
        self.digest = digest(
            {
                "protocol": "chat completions",
                "model": settings.model,
                "revision": settings.revision,
                "decoding": settings.decoding(),
            }
        )
        # A revision names the weights, and is taken on trust; without one only the address can.
        self.place = settings.address if settings.revision is None else ""
        self.at_once = settings.max_concurrency
        self._settings = settings
        self._server = Server(settings, "/chat/completions", key)

    @property
    def description(self) -> str:
        return self._server.description

    def answer(self, calls: Sequence[Call], meter: Meter, done: Done) -> None:
        """Ask every call; see `Backend.answer` and `Server.run`."""
        settled = asyncio.Event()

        async def work(batch: Batch, numbered: tuple[int, Call]) -> None:
            i, call = numbered

            async def attempt(granted: Collection[Wish]) -> Answer:
                return await self._try(batch, call, granted, meter, settled)

            try:
                answer = await self._server.answer(batch, wishes(call, self._settings), attempt)
            except CallFailedError as error:
                done(i, Reply(failure=str(error)))
            else:
                done(i, answer.reply)

        self._server.run(list(enumerate(calls)), work)

    async def _try(
        self,
        batch: Batch,
        call: Call,
        granted: Collection[Wish],
        meter: Meter,
        settled: asyncio.Event,
    ) -> Answer:
        """One request, from budget to answer."""
        need = meter.need(call)
        while reason := meter.reserve(need):
            if not meter.under_way:
                raise CallFailedError(reason)
            settled.clear()
            await settled.wait()
        used: Tokens | None = None
        server = self._server
        try:
            await server.turn(need.total)
            used = need  # a request that breaks off may have been worked on in full
            response = await server.post(batch, request(self._settings, call, granted))
            used = need if response.status == 200 else Tokens()
            answer = read(server.accept(response), call.choices, need)
            used = answer.used
        except (UnreachableError, UserError):
            used = None
            raise
        finally:
            meter.settle(need, used)
            server.give_back(need.total - (used.total if used else 0))
            settled.set()
        clean = answer.reply.model_copy(update={"text": server.clean(answer.reply.text)})
        return Answer(clean, used)
