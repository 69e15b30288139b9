"""Log-probabilities under the reference, kept from one training to the next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from harness.core.errors import UserError
from harness.core.files import read_records, write_jsonl
from harness.core.schema import Record, digest

Ids = list[int]


class Known(Record):
    """How likely the reference finds a completion: `key` is `ReferenceLogps.key` of it."""

    key: str = Field(pattern="^[0-9a-f]{64}$")
    logp: float = Field(allow_inf_nan=False)


@dataclass
class ReferenceLogps:
    """The log-probabilities that `reference` (a digest of weights, tokenizer and arithmetic) gives,
    in a file of `folder`; without a folder they are forgotten."""

    folder: Path | None
    reference: str
    known: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self._file is not None and self._file.is_file():
            try:
                self.known = {one.key: one.logp for one in read_records(self._file, Known)}
            except UserError:  # damaged: computed again
                self.known = {}

    @property
    def _file(self) -> Path | None:
        # What gzip packs has a checksum.
        return self.folder and self.folder / f"{self.reference}.jsonl.gz"

    def key(self, prompt: Ids, completion: Ids) -> str:
        """sha256 of the reference and of the tokens."""
        return digest([self.reference, prompt, completion])

    def add(self, found: Mapping[str, float]) -> None:
        """Know more, and keep on disk what is a number."""
        self.known |= found
        if self._file is not None:
            finite = {key: logp for key, logp in self.known.items() if math.isfinite(logp)}
            write_jsonl(self._file, (Known(key=k, logp=v) for k, v in sorted(finite.items())))
