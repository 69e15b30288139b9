"""What servers ask for in Retry-After."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.serving.server import retry_after


@pytest.mark.parametrize(
    ("value", "seconds"), [("0", 0), ("17", 17), (" 2.5 ", 2.5), ("\x1e3", 3), (None, None)]
)
def test_seconds_are_read(value, seconds):
    assert retry_after(value) == seconds


@pytest.mark.parametrize("usegmt", [True, False])
def test_dates_are_read(usegmt):
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=usegmt)
    assert retry_after(until) == pytest.approx(90, abs=2)


def test_a_date_that_has_passed_is_now():
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, -?\d+ [A-Z][a-z]{2} -?\d+ \d+:\d+:\d+ .*"))
def test_nothing_that_a_server_writes_breaks_it(value):
    found = retry_after(value)
    assert found is None or 0 <= found < float("inf")
