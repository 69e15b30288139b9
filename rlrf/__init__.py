"""Evaluate language models, gate them against regressions, and train them by RLRF.

    import rlrf

    decision = rlrf.gate("evaluations/m0", "evaluations/m1")

Every function is what the command of the same name calls. Heavy libraries are imported at the
first use of a function, so that `import rlrf` is fast.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.board import Board
    from harness.engines.open import EngineSpec
    from harness.evals.evaluate import EvalOptions
    from harness.readers import Selection
    from rlrf import testing
    from rlrf.api import evaluate, score, train
    from rlrf.gating import gate, load_evaluation

__all__ = [
    "Board",
    "EngineSpec",
    "EvalOptions",
    "Selection",
    "evaluate",
    "gate",
    "load_evaluation",
    "score",
    "testing",
    "train",
]

_MODULES = {
    "Board": "harness.board",
    "EngineSpec": "harness.engines.open",
    "EvalOptions": "harness.evals.evaluate",
    "Selection": "harness.readers",
    "evaluate": "rlrf.api",
    "gate": "rlrf.gating",
    "load_evaluation": "rlrf.gating",
    "score": "rlrf.api",
    "train": "rlrf.api",
}


def _refuse_shadow(package: str) -> None:
    """Refuse a foreign module of the name of one of our packages, which Python would import.

    Raises:
        ImportError: names the foreign file and what to do.
    """
    loaded = sys.modules.get(package)
    spec = loaded.__spec__ if loaded is not None else importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return
    ours = Path(__file__).resolve().parents[1] / package / "__init__.py"
    if Path(spec.origin).resolve() != ours:
        raise ImportError(
            f"rlrf needs its own package '{package}', but Python finds {spec.origin} under that "
            "name first. Rename that file or folder, or start Python in another folder.",
            name=package,
            path=spec.origin,
        )


for _package in ("harness", "tasks"):
    _refuse_shadow(_package)


def __getattr__(name: str) -> Any:
    if name == "testing":
        return importlib.import_module("rlrf.testing")
    if name in _MODULES:
        from harness.core.extras import name_missing_extra

        with name_missing_extra("train" if name == "train" else ""):
            return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'rlrf' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
