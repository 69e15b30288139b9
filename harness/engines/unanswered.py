"""Count responses that a server or an engine does not give, and stop when there are too many."""

from __future__ import annotations

from harness.core.errors import UserError

MAX_UNANSWERED = 0.5  # share of the responses, unless the user says otherwise
MAX_UNANSWERED_AT_FIRST = 20  # refusals before the first answer


class Unanswered:
    """Responses that are missing in one generation of `total`.

    Args:
        share: of `total` that may be missing.
        at_once: requests that are under way together, whose refusals may come before any answer.
    """

    def __init__(self, total: int, share: float, at_once: int = 1) -> None:
        self._total = total
        self._share = share
        self._most_at_first = max(MAX_UNANSWERED_AT_FIRST, at_once)
        self._missing = self._answered = 0
        self._first = ""

    def count_answered(self) -> None:
        self._answered += 1

    def count(self, what: str, who: str) -> None:
        """Count a response that `who` does not give; `what` names the prompt and the reason.

        Raises:
            UserError: that is one too many.
        """
        self._missing += 1
        self._first = self._first or what
        if self._missing > self._share * self._total:
            raise UserError(
                f"{who} left {self._missing} of {self._total} responses unanswered, and at most "
                f"{self._share:.0%} may be (max_unanswered). {self._advice()}"
            )
        if not self._answered and self._missing >= self._most_at_first:
            raise UserError(
                f"{who} answered none of the first {self._missing} of {self._total} prompts. "
                f"{self._advice()}"
            )

    def _advice(self) -> str:
        return (
            f"The first: {self._first}. Mend what the server objects to, or allow more with "
            "max_unanswered; then run the same command again."
        )
