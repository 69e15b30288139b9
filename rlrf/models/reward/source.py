"""Where the rewards of a run come from: one model, an ensemble, or nearness to demonstrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.core.errors import UserError
from harness.core.files import parse, read_jsonl
from harness.core.schema import Item, Record, Sample, digest
from harness.engines.model_folder import find, model_digest
from rlrf.config import Device, RewardSource
from rlrf.models.reward.loading import check_reward_model
from rlrf.models.reward.model import RewardModel, Rewards, lower_bound


class Demonstration(Record):
    """A response worth imitating; `prompt` is the user's turn, before any chat template."""

    prompt: str
    response: str


@dataclass(frozen=True)
class Rewarder:
    """Gives rewards to samples; the models are loaded for each call, one after the other."""

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
        prompts = [items[sample.item].prompt for sample in samples]
        responses = [sample.response for sample in samples]
        if self.demonstrations is None:
            return self._rewards(prompts, responses)
        return self._anchored(prompts, responses, self.demonstrations)

    def _rewards(self, prompts: Sequence[str], responses: Sequence[str]) -> Rewards:
        """The reward of each response, of several models the lower bound on it."""
        found = []
        for folder in self.folders:
            model = RewardModel(folder, device=self.device)
            # Each sees prompts as it was taught to, whatever the policy's chat template.
            found.append(model.score([model.render(prompt) for prompt in prompts], responses))
        return found[0] if len(found) == 1 else lower_bound(found, self.beta)

    def _anchored(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        demonstrations: Mapping[str, str],
    ) -> Rewards:
        """-(r - r_demonstration)^2: as good as the demonstration, and no better than that."""
        asked = sorted(set(prompts))
        if absent := [prompt for prompt in asked if prompt not in demonstrations]:
            raise UserError(
                f"{len(absent)} of the prompts have no demonstration, such as {absent[0][:80]!r}; "
                "add them to the file of reward.demonstrations."
            )
        shown = [demonstrations[prompt] for prompt in asked]
        found = self._rewards([*prompts, *asked], [*responses, *shown])
        wanted = dict(zip(asked, found[len(prompts) :], strict=True))
        apart = found[: len(prompts)] - np.array([wanted[prompt] for prompt in prompts])
        return np.asarray(-np.square(apart))


def open_rewarder(source: RewardSource, device: Device) -> Rewarder:
    """Find the models and read the demonstrations that a configuration names.

    Raises:
        UserError: there is no such model, or it gives no reward; there is no such file, a line is
            no demonstration, or two differ.
    """
    folders = tuple(find(model, None) for model in source.models)
    for folder in folders:
        check_reward_model(folder)
    shown = _read(Path(source.demonstrations)) if source.demonstrations is not None else None
    return Rewarder(
        folders=folders,
        device=device,
        beta=source.beta,
        demonstrations=shown,
        digest=digest([[model_digest(folder) for folder in folders], source.beta, shown]),
    )


def _read(path: Path) -> dict[str, str]:
    """Prompt -> demonstration."""
    shown: dict[str, str] = {}
    for number, row in read_jsonl(path):
        one = parse(Demonstration, row, f"{path}, line {number}")
        if shown.setdefault(one.prompt, one.response) != one.response:
            raise UserError(
                f"{path}, line {number} demonstrates {one.prompt[:80]!r} otherwise than a line "
                "before; keep one of them."
            )
    return shown
