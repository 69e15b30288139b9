"""Training jobs on the CPU, with few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlrf.config import Device
from rlrf.objectives.job import Job
from rlrf.training_config import Training


def job(start: Any, out: Path | None = None, config: Any = None, **more: Any) -> Job[Any]:
    """Describe the training of `start`, all weights of it unless an `adapter` is given."""
    plain = {"adapter": None, "device": Device(device="cpu"), "seed": 0}
    return Job(start=start, config=config or Training(), out=out or Path(), **plain | more)


def rows(out: Path) -> list[dict[str, float]]:
    """The metrics of a training, a row per step."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
