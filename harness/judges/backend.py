"""What answers a judge's calls: a chat server, or a model in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.core.schema import Call, Reply
from harness.judges.budget import Meter, Tokens

Done = Callable[[int, Reply], None]


@dataclass(frozen=True)
class Answer:
    """A reply, and the tokens it took."""

    reply: Reply
    used: Tokens


class Backend(Protocol):
    """What answers the calls of a judge.

    `digest` covers all that decides a reply beside the call, wherever the weights are served.
    `place` is where they are served, if nothing says which weights these are: two servers that
    call different models by one name share no kept replies. It is '' where the weights are known.
    """

    id: str
    digest: str
    place: str
    at_once: int  # calls that are under way together

    @property
    def description(self) -> str:
        """For people: the model, where it is, what it was found to be able to do."""
        ...

    def answer(self, calls: Sequence[Call], meter: Meter, done: Done) -> None:
        """Ask every call once; `done(i, reply)` as soon as call i has its reply or its failure.

        Every request is reserved and settled with `meter`.

        Raises:
            UserError: none of the calls can be answered, and what to do about it.
        """
        ...


def failure_of(text: str, is_cut: bool) -> str:
    """Why a reply cannot count although it came; '' if it can."""
    if is_cut:
        return "the reply was cut short at its limit of tokens"
    return "" if text.strip() else "the reply is empty"
