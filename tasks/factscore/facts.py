"""An atomic fact with the verifier's finding."""

from __future__ import annotations

from pydantic import Field

from harness.core.schema import Record


class Fact(Record):
    """One claim of a response: what the knowledge source does not support is not supported."""

    text: str
    supported: bool = Field(strict=True)
    evidence: str = Field(default="", description="what of the source speaks to it")
