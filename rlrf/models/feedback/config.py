"""What people write: how a feedback model is trained."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from rlrf.config import Adapter, Optimisation


class FeedbackTraining(Optimisation):
    """Supervised fine-tuning on the judge's feedback."""

    place: ClassVar[str] = ""

    adapter: Adapter | None = Field(
        default=None, description="LoRA, merged when it is trained; null: train all weights"
    )
    learning_rate: float = Field(default=1e-5, gt=0)
    epochs: float = Field(default=2, gt=0)
    max_length: int = Field(
        default=2048, gt=0, description="tokens of prompt and reply; longer prompts are cut"
    )
    max_reply: int = Field(
        default=512, gt=0, description="tokens of a reply, half of the context at most"
    )
