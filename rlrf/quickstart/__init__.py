"""Run the quickstart: a seed policy, a configuration and embedded benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import UserError

if TYPE_CHECKING:
    from rlrf.result import RunResult

HERE = Path(__file__).parent
CONFIG = HERE / "config.yaml"
M0 = HERE / "m0"
DIGEST = HERE / "m0.sha256"


def seed_policy() -> Path:
    """Return the folder of the seed policy M0, which `transformers` can load.

    Raises:
        UserError: the checkpoint does not match its digest.
    """
    from harness.engines.model_folder import model_digest

    if not M0.is_dir() or model_digest(M0) != DIGEST.read_text().strip():
        raise UserError(
            f"The seed policy in {M0} is not the one this version came with ({DIGEST.name} "
            "differs). Install the package again, or make the policy anew with `make m0`."
        )
    return M0


def quickstart(out: Path, *, fresh: bool = False) -> RunResult:
    """Train M0 -> M1 -> M2 on the embedded benchmarks, gated and recorded, in the folder `out`.

    Raises:
        UserError: as `seed_policy` and `rlrf.loop.train`.
    """
    from rlrf.config import load
    from rlrf.loop import train

    seed_policy()
    return train(load(CONFIG), out, fresh=fresh)
