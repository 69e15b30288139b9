"""Where the rewards of a run come from: one model, an ensemble, or nearness to demonstrations."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.errors import UserError
from harness.models import find, model_digest
from harness.schema import Item, Record, Sample, digest
from harness.store import parse, read_jsonl
from rlrf.config import Device, RewardSource
from rlrf.reward_model.model import Ensemble, RewardModel, Rewards, Scorer


class Demonstration(Record):
    """A response worth imitating; `prompt` is the user's turn, before any chat template."""

    prompt: str
    response: str


@dataclass(frozen=True)
class Rewarder:
    """Gives rewards to samples; the models are loaded for each call and released after it."""

    folders: tuple[Path, ...]
    device: Device
    beta: float
    demonstrations: Mapping[str, str] | None
    digest: str

    def score(self, samples: Sequence[Sample], items: Mapping[str, Item]) -> Rewards:
        """The reward of each sample, shape (n,); `items` maps digests to items.

        Raises:
            UserError: a model cannot be loaded, gives no number, or an item has no demonstration.
        """
        models = [RewardModel(folder, device=self.device) for folder in self.folders]
        scorer: Scorer = models[0] if len(models) == 1 else Ensemble(models, self.beta)
        # Each model sees prompts as it was taught to, whatever the policy's chat template.
        asked = [items[sample.item].prompt for sample in samples]
        prompts = [models[0].render(prompt) for prompt in asked]
        if self.demonstrations is None:
            rewards = scorer.score(prompts, [sample.response for sample in samples])
        else:
            rewards = self._anchored(scorer, asked, prompts, [s.response for s in samples])
        del models, scorer
        gc.collect()
        return rewards

    def _anchored(
        self, scorer: Scorer, asked: Sequence[str], prompts: Sequence[str], responses: Sequence[str]
    ) -> Rewards:
        """-(r - r_demonstration)^2: as good as the demonstration, and no better than that."""
        assert self.demonstrations is not None  # noqa: S101
        if absent := sorted({prompt for prompt in asked if prompt not in self.demonstrations}):
            raise UserError(
                f"{len(absent)} of the prompts have no demonstration, such as {absent[0][:80]!r}; "
                "add them to the file of reward.demonstrations."
            )
        shown = [self.demonstrations[prompt] for prompt in asked]
        rewards, wanted = np.split(scorer.score([*prompts, *prompts], [*responses, *shown]), 2)
        return -np.square(rewards - wanted)


def open_rewarder(source: RewardSource, device: Device) -> Rewarder:
    """Find the models and read the demonstrations that a configuration names.

    Raises:
        UserError: there is no such model or file, or a line is no demonstration.
    """
    folders = tuple(find(model, None) for model in source.models)
    shown = None
    if source.demonstrations is not None:
        path = Path(source.demonstrations)
        rows = [parse(Demonstration, row, f"{path}, line {n}") for n, row in read_jsonl(path)]
        shown = {one.prompt: one.response for one in rows}
    return Rewarder(
        folders=folders,
        device=device,
        beta=source.beta,
        demonstrations=shown,
        digest=digest([[model_digest(folder) for folder in folders], source.beta, shown]),
    )
