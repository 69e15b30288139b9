"""The parts that FActScore is made of, each replaceable, each named in the estimator's identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tasks.task import Judge


@dataclass(frozen=True)
class Biography:
    """A response to be scored, and the passages of its entity's page."""

    entity: str
    text: str
    page: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """The atomic facts of a biography; `failure` says why they could not be had.

    `cut` says what of an overlong biography was left unread.
    """

    texts: tuple[str, ...] = ()
    failure: str = ""
    cut: str = ""


@dataclass(frozen=True)
class Claim:
    """A fact to be verified against passages, the best first."""

    entity: str
    text: str
    passages: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """Whether passages support a claim; None, with the reason, where that could not be found.

    `evidence` is what of the passages speaks to the claim, for people to read.
    """

    supported: bool | None
    failure: str = ""
    evidence: str = ""


class Decomposer(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def prompt_digest(self) -> str | None:
        """Of what it asks a judge; None if it asks none."""

    def decompose(self, biographies: Sequence[Biography], judge: Judge | None) -> list[Facts]:
        """The facts of each biography, in order; all are asked for in one batch."""
        ...


class Retriever(Protocol):
    @property
    def name(self) -> str: ...

    def retrieve(self, page: tuple[str, ...], query: str) -> tuple[str, ...]:
        """The passages of `page` that are most to the point, the best first."""
        ...


class Verifier(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def prompt_digest(self) -> str | None:
        """Of what it asks a judge; None if it asks none."""

    def verify(self, claims: Sequence[Sequence[Claim]], judge: Judge | None) -> list[list[Finding]]:
        """A finding for each claim of each biography, in order; asked for in one batch."""
        ...
