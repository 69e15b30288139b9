"""When the next request may go: the limits that were set, and the pauses that servers ask for."""

from __future__ import annotations

import math
import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


class Pace:
    """Spreads an amount over time: in no minute more than `per_minute`, None: as it comes.

    Evenly, since a server with a limit a minute may count by the second.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._seconds_each = 60 / per_minute if per_minute else 0.0
        self._next = 0.0

    def delay(self, amount: float = 1) -> float:
        """Seconds until `amount` may start; its place in line is taken."""
        now = time.monotonic()
        start = max(now, self._next)
        self._next = start + amount * self._seconds_each
        return start - now

    def give_back(self, amount: float) -> None:
        """What was set aside and not used comes to those behind."""
        self._next -= amount * self._seconds_each


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, a number or an HTTP date (RFC 9110, 10.2.3).

    None: there is none, or it says nothing that can be understood.
    """
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value := value.strip()):
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    seconds = (until - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
