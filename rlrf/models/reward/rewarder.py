"""Reward the samples of a run: by one model, by an ensemble, or relative to demonstrations."""

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
from rlrf.models.reward.model import RewardModel, Rewards, check_reward_model, lower_bound


class Demonstration(Record):
    """A response worth imitating; `prompt` is the user's turn, without a chat template."""

    prompt: str
    response: str


@dataclass(frozen=True)
class Rewarder:
    """Rewards samples; each call loads the models one after the other."""

    folders: tuple[Path, ...]
    device: Device
    beta: float
    demonstrations: Mapping[str, str] | None
    digest: str

    def score(self, samples: Sequence[Sample], items: Mapping[str, Item]) -> Rewards:
        """Return the reward of each sample, shape (n,); `items` maps digests to items.

        With demonstrations the reward is -(r - r_demonstration)^2: highest for a response that is
        as good as the demonstration.

        Raises:
            UserError: a model cannot be loaded or gives no finite number, or an item has no
                demonstration.
        """
        prompts = [items[sample.item].prompt for sample in samples]
        responses = [sample.response for sample in samples]
        if self.demonstrations is None:
            return self._rewards(prompts, responses)
        asked = sorted(set(prompts))
        if absent := [prompt for prompt in asked if prompt not in self.demonstrations]:
            raise UserError(
                f"{len(absent)} of the prompts have no demonstration, such as {absent[0][:80]!r}; "
                "add them to the file of reward.demonstrations."
            )
        shown = [self.demonstrations[prompt] for prompt in asked]
        rewards = self._rewards([*prompts, *asked], [*responses, *shown])
        wanted = dict(zip(asked, rewards[len(prompts) :], strict=True))
        difference = rewards[: len(prompts)] - np.array([wanted[prompt] for prompt in prompts])
        return np.asarray(-np.square(difference))

    def _rewards(self, prompts: Sequence[str], responses: Sequence[str]) -> Rewards:
        """Score responses by the model, or by the lower bound of several models."""
        rewards = []
        for folder in self.folders:
            model = RewardModel(folder, device=self.device)
            # Each model reads prompts in its own chat template, not in the policy model's.
            rewards.append(model.score([model.render(prompt) for prompt in prompts], responses))
        return rewards[0] if len(rewards) == 1 else lower_bound(rewards, self.beta)


def open_rewarder(source: RewardSource, device: Device) -> Rewarder:
    """Find the models and read the demonstrations that a configuration names.

    Raises:
        UserError: a model or file is missing or unusable, or two demonstrations contradict.
    """
    folders = tuple(find(model, None) for model in source.models)
    for folder in folders:
        check_reward_model(folder)
    named = source.demonstrations
    shown = None if named is None else _read_demonstrations(Path(named))
    return Rewarder(
        folders=folders,
        device=device,
        beta=source.beta,
        demonstrations=shown,
        digest=digest([[model_digest(folder) for folder in folders], source.beta, shown]),
    )


def _read_demonstrations(path: Path) -> dict[str, str]:
    """Read the demonstration of each prompt."""
    shown: dict[str, str] = {}
    for number, row in read_jsonl(path):
        one = parse(Demonstration, row, f"{path}, line {number}")
        if shown.setdefault(one.prompt, one.response) != one.response:
            raise UserError(
                f"{path}, line {number} gives {one.prompt[:80]!r} another demonstration than an "
                "earlier line; keep one of them."
            )
    return shown
