"""What was looked at, and what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.core.errors import UserError
from rlrf.doctor import GIB, Finding

Said = str | tuple[str, str]
"""What was found, and what is worth doing although nothing would fail."""


@dataclass
class Findings:
    findings: list[Finding]

    def at(self, name: str, see: Callable[[], tuple[Any, Said]]) -> Any:
        """What `see` gives beside what it says; None where it is refused."""
        try:
            value, said = see()
        except UserError as error:
            self.findings.append(Finding(name=name, found="", ok=False, advice=str(error)))
            return None
        found, advice = said if isinstance(said, tuple) else (said, "")
        self.findings.append(Finding(name=name, found=found, ok=True, advice=advice))
        return value


def gib(size: float) -> str:
    return f"{size / GIB:,.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:,.1f} MiB"
