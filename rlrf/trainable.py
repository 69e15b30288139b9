"""Check that benchmarks have what training needs, before anything is generated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.core.errors import UserError
from rlrf.config import Config, Decoding, TaskConfig
from tasks.hooks import require_yaml
from tasks.task import Task, quality

SPLITS = {  # split that training needs -> what for
    "train": "to explore",
    "gate": "to decide on candidates",
    "sealed": "to measure the models once, at the end",
}


def check_trainable(config: Config, tasks: Mapping[str, Task], model: Path) -> None:
    """Check every benchmark of a run that starts from the model in the folder `model`.

    Raises:
        UserError: as `check_parts` and `check_limits`.
    """
    context = _context(model)
    for settings in config.tasks:
        task = tasks[settings.name]
        check_parts(config, settings, task)
        if context is not None:
            check_limits(config, task, context)


def check_parts(config: Config, settings: TaskConfig, task: Task) -> None:
    """Check that a benchmark has the splits, the items and the range that training needs.

    Raises:
        UserError: something is missing; the message says what, and what it is for.
    """
    missing = [split for split in SPLITS if split not in task.splits]
    if missing:
        raise UserError(
            f"{task.name} has no {missing[0]} split (it has {', '.join(task.splits)}), so it "
            f"cannot be trained on: that needs a {missing[0]} split {SPLITS[missing[0]]}. Choose "
            "another task, or add the split."
        )
    require_yaml(task.name)
    for split, purpose in SPLITS.items():
        if not task.items(split, settings.data_path):
            raise UserError(
                f"The {split} split of {task.name} is empty. A benchmark that is trained on needs "
                f"it {purpose}: add items."
            )
    if config.reward is None or config.method in ("rlrf", "rlmec") or settings.feedback == "score":
        quality(task.primary, 0.0)


def check_limits(config: Config, task: Task, context: int) -> None:
    """Check that the longest responses leave room for a prompt in the model's context.

    Raises:
        UserError: they do not; the message names the key to set.
    """
    sampled: dict[str, Decoding] = {"explore": config.explore}
    if config.method == "rlrf" and config.reflect.m > 0:
        sampled["reflect"] = config.reflect
    for key, decoding in sampled.items():
        if decoding.max_tokens is not None and decoding.max_tokens >= context:
            raise UserError(
                f"{key}.max_tokens is {decoding.max_tokens}, and the model's context of {context} "
                "tokens must hold the prompt too: set it to less."
            )
    longest = task.generation["max_tokens"]
    if longest >= context:
        raise UserError(
            f"max_tokens {longest} of {task.name} exceeds the model's context of {context} tokens, "
            f"which must hold the prompt too: set it under tasks: - name: {task.name}, "
            f"max_tokens: {max(1, context // 2)}"
        )


def _context(model: Path) -> int | None:
    """Return the model's context in tokens; None if its files cannot be read, as loading says."""
    from harness.engines.loading import context_of, load_config, load_tokenizer

    try:
        return context_of(load_config(model), load_tokenizer(model))
    except Exception:
        return None
