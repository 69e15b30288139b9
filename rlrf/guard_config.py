"""Describe guards in the configuration of a run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from pydantic import Field, field_validator

from harness.core.schema import Record, Tier


class Guard(Record):
    """A benchmark that is measured and gated, and never trained on."""

    task: str = Field(description="a benchmark, or a task or group of lm-eval")
    metric: str | None = Field(
        default=None, description="metric to gate; default: the task's primary metric"
    )
    margin: float | None = Field(
        default=None,
        gt=0,
        description="largest tolerated loss, in the metric's unit; default: 5 % of its range",
    )
    tier: Tier = Field(
        default="guardrail",
        description="guardrail: must not fail; critical: must pass; advisory: is reported",
    )
    items: int | None = Field(
        default=None, ge=1, description="gate items per iteration; default: gate.slice"
    )
    rotate: bool = Field(
        default=True,
        description="other gate items in each iteration; false: always the same, so that earlier "
        "models are not asked again",
    )
    limit: int | None = Field(
        default=None, ge=2, description="use only the first documents of the task, so many"
    )
    num_fewshot: int | None = Field(
        default=None, ge=0, description="solved examples before each question; default: the task's"
    )
    apply_chat_template: bool | None = Field(
        default=None,
        description="render prompts by the model's chat template; default: for benchmarks of this "
        "package, and not for lm-eval's, as `lm_eval run`",
    )
    include_path: list[str] = Field(
        default=[], description="folder with the task's YAML or plugin, or a list of folders"
    )
    data: str | None = Field(
        default=None,
        description="folder or file of the data of a benchmark of this package; default: what it "
        "comes with",
    )

    @field_validator("include_path", mode="before")
    @classmethod
    def _one_folder_or_a_list(cls, folders: Any) -> Any:
        return as_list(folders)

    @property
    def evaluation_settings(self) -> dict[str, Any]:
        """Return how the task is evaluated, which all guards of one task share."""
        return self.model_dump(mode="json", exclude={"metric", "margin", "tier"})


def as_list(folders: Any) -> Any:
    """Return a single folder as a list of one."""
    return [folders] if isinstance(folders, str) else folders


def check_guards(guards: Sequence[Guard], trained: Collection[str], ruled: Collection[str]) -> None:
    """Refuse guards that contradict each other, the tasks `trained` on, or the gate policy.

    `ruled` are the tasks that the gate policy has rules for.

    Raises:
        ValueError: they do.
    """
    first: dict[str, Guard] = {}
    metrics: set[tuple[str, str | None]] = set()
    for guard in guards:
        name = guard.task
        if name in trained:
            raise ValueError(
                f"{name} is in tasks and in guards: a guard shows what training does to "
                "benchmarks that it does not learn from. Keep it in tasks, where it is gated, too"
            )
        if first.setdefault(name, guard).evaluation_settings != guard.evaluation_settings:
            raise ValueError(
                f"the guards of {name} differ in more than metric, margin and tier: it is "
                "evaluated once per model, so give them the same settings"
            )
        if (name, guard.metric) in metrics:
            raise ValueError(
                f"{name} is guarded twice by {guard.metric or 'its primary metric'}: keep one guard"
            )
        metrics.add((name, guard.metric))
        if name in ruled and (given := {"metric", "margin", "tier"} & guard.model_fields_set):
            raise ValueError(
                f"gate.policy has rules for {name}, and its guard gives {min(given)}: keep one of "
                "the two"
            )
