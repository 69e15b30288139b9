"""The embedded world: small editions of the three benchmarks, with an exact verifier.

They share the scoring code of the full ones; what stands in for the LLM judge knows the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from harness.schema import Item, Score
from tasks.mini import arithmetic, biography, instructions, world
from tasks.plugin import Answered, Judge, Task
