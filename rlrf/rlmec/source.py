"""Where the rewriter of a run comes from: a trained one, or what one is trained from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import UserError
from harness.core.schema import digest
from harness.engines import model_folder
from harness.engines.model_folder import Checkpoint
from rlrf.config import Config
from tasks.task import Judge, Task

NAME = "the rewriter"


@dataclass(frozen=True)
class RewriterSource:
    """`trained` is None where the run trains its own from `base`."""

    base: Checkpoint
    trained: Checkpoint | None

    @property
    def digest(self) -> str:
        return digest([self.base.digest, self.trained.digest if self.trained else None])


def open_rewriter(
    config: Config, tasks: Mapping[str, Task], judge: Judge | None
) -> RewriterSource | None:
    """What the configuration says of the rewriter; None for methods that need none.

    Raises:
        UserError: there is no such model, it reads other tokens than the policy, or nobody can
            teach it.
    """
    if config.method != "rlmec":
        return None
    settings = config.rlmec
    policy = model_folder.find(config.model, config.revision)
    base = Checkpoint(
        "the rewriter's base", model_folder.find(settings.base) if settings.base else policy
    )
    model_folder.check(base.model)
    trained = None
    if settings.rewriter is not None:
        folder = model_folder.find(settings.rewriter)
        if (folder / model_folder.ADAPTER_CONFIG).exists():
            trained = Checkpoint(NAME, base.model, folder)
        else:
            model_folder.check(folder)
            trained = Checkpoint(NAME, folder)
    else:
        _check_teachers(config, tasks, judge)
    for read in {base.model, trained.model if trained else base.model} - {policy}:
        _check_tokens(read, policy)
    return RewriterSource(base, trained)


def _check_teachers(config: Config, tasks: Mapping[str, Task], judge: Judge | None) -> None:
    if judge is not None:
        return
    for name, task in tasks.items():
        if config.rlmec.teacher == "judge" or task.rewrite is None:
            raise UserError(
                f"Nobody can put wrong answers to {name} right for a rewriter to learn: name a "
                "judge's file as 'judge', or a trained rewriter as rlmec.rewriter."
            )


def _check_tokens(model: Path, policy: Path) -> None:
    """A probability a token of the rewriter's is a reward a token of the policy's."""
    from harness.engines.loading import load_tokenizer

    read, written = (load_tokenizer(folder) for folder in (model, policy))
    if read.get_vocab() != written.get_vocab() or read.eos_token_id != written.eos_token_id:
        raise UserError(
            f"The rewriter in {model} reads other tokens than the policy in {policy}, so it cannot "
            "say how likely each of the policy's is; train one from a model of the policy's family."
        )
