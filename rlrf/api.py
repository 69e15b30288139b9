"""The functions of `rlrf` that work with models: evaluate, score and train."""

from __future__ import annotations

from pathlib import Path

from harness.core.errors import UserError
from rlrf import loop
from rlrf.config import Config, load
from rlrf.result import RunResult


def train(
    config: Config | str | Path,
    out: str | Path | None = None,
    *,
    fresh: bool = False,
    limit: int | None = None,
) -> RunResult:
    """Train a model by a configuration, gate every candidate, and record the run.

    Args:
        config: a configuration file, or a `rlrf.config.Config`.
        out: folder of the run; a run that exists there is resumed. Default for a file:
            runs/NAME-OF-CONFIG.
        fresh: delete the run in `out` and start over.
        limit: make it a dry run: one iteration on at most so many prompts and items per task.

    Returns:
        The result: `incumbent` names the promoted model, `weights` and `adapter` its folders,
        `iterations` the outcome of each candidate and `sealed` every model on the sealed split.

    Raises:
        UserError: the configuration, a model or the folder cannot be used.

    Example:
        >>> result = rlrf.train("configs/cpu.yaml")
        >>> result.incumbent
        'M2'
    """
    if isinstance(config, Config):
        if out is None:
            raise UserError("A configuration without a file needs a folder for its run: give out.")
    else:
        name = Path(config).stem
        out = out or Path("runs") / (name if limit is None else f"{name}-limit")
        config = load(Path(config))
    if limit is not None:
        config = config.limited(limit)
    return loop.train(config, Path(out), fresh=fresh)
