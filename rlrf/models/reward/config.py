"""What people write: how a reward model is trained, and a run of self-evolved reward learning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from harness.core import yaml
from harness.core.schema import Record, digest
from rlrf.config import Adapter, Device, Optimisation
from rlrf.models.reward.self_labels import Thresholds

Fraction = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[\w-]{1,40}$")]

LORA = Adapter(r=8, alpha=32, dropout=0.1)


class RewardTraining(Optimisation):
    """Training of a reward model; the defaults are those of SER (arXiv 2411.00418)."""

    place: ClassVar[str] = ""

    adapter: Adapter | None = Field(default=LORA, description="LoRA; null: train all weights")
    learning_rate: float = Field(default=2e-5, gt=0)
    epochs: float = Field(default=2, gt=0)
    batch_size: int = Field(default=40, ge=1, description="pairs a forward pass")
    max_length: int = Field(
        default=512, gt=0, description="tokens of prompt and response; longer pairs are left out"
    )
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1, description="share of the steps")
    center: float = Field(
        default=0.0,
        ge=0,
        description="weight of (r_chosen + r_rejected)^2, which holds rewards around 0 "
        "(arXiv 2312.09244, .01): a preference says nothing of their offset, on which sigmoid(r) "
        "and the spread of an ensemble depend",
    )


class SelfEvolution(Record):
    """Configure self-evolution runs over all seeds, seed fractions and thresholds."""

    model: str = Field(description="folder or hub id of the base model")
    revision: str | None = Field(default=None, description="of the hub model")
    pairs: str = Field(description="file of preferences; all labels are known, few are shown")
    held_out: str | None = Field(
        default=None, description="file of preferences to measure on; default: a part of `pairs`"
    )
    held_out_share: float = Field(default=0.2, gt=0, lt=1, description="that part's share")
    train: RewardTraining = RewardTraining()
    loops: int = Field(default=3, ge=1, description="retrainings after loop 0 at most")
    seed_fractions: list[Fraction] = Field(
        default=[0.15], min_length=1, description="shares of the pairs whose labels are shown"
    )
    thresholds: dict[Name, Thresholds] = Field(
        default={"published": Thresholds()}, min_length=1, description="name -> thresholds"
    )
    seeds: list[int] = Field(default=[0], min_length=1, description="of splits and training")
    engine: Device = Device()

    @field_validator("seeds", "seed_fractions")
    @classmethod
    def _each_once(cls, values: list[float]) -> list[float]:
        if len(set(values)) < len(values):
            raise ValueError("a value is there twice")
        return values

    @property
    def identity(self) -> str:
        """What makes two runs the same: all of it but the places of model and data, and the sweep,
        so that a run can be given more seeds, fractions or thresholds and keeps its models."""
        places = {"model", "revision", "pairs", "held_out"}
        sweep = {"loops", "seed_fractions", "thresholds", "seeds"}
        return digest(self.model_dump(mode="json", exclude=places | sweep))


def load(path: Path) -> SelfEvolution:
    """Read a configuration file; places are looked for beside it first.

    Raises:
        UserError: missing, not YAML, an unknown or missing key, a value out of range.
    """
    config = yaml.load(path, SelfEvolution)
    places = {
        name: str((path.parent / place).resolve())
        for name in ("model", "pairs", "held_out")
        if (place := getattr(config, name)) is not None and (path.parent / place).exists()
    }
    return config.model_copy(update=places)
