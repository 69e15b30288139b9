"""Reward models that score: one, or several together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError, explain_out_of_memory
from harness.core.files import parse, read_json
from harness.core.progress import track
from harness.core.schema import digest
from harness.engines.loading import choose_dtype
from harness.engines.model_folder import check, check_files, find, model_digest
from rlrf.config import Device
from rlrf.models.reward.encoding import encode, render
from rlrf.models.reward.loading import check_tokenizer, context, load_model, load_tokenizer
from rlrf.models.reward.preferences import Preference
from rlrf.models.reward.training import MANIFEST, Manifest

Rewards = npt.NDArray[np.float64]

TOO_LARGE = (
    "The reward model does not fit in memory. Take a smaller one, or load its weights as bfloat16 "
    "(engine.dtype)."
)
BATCH_TOKENS = 4_096  # of a forward pass, padding included


class Scorer(Protocol):
    """What says how good a response is."""

    digest: str

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Rewards: ...


class RewardModel:
    """A sequence classifier of one number, loaded once to score responses.

    Args:
        model: a folder or the name of a hub model; safetensors only, and its own code is not run.
        revision: of the hub model.
        device: where it runs, and the type of its weights there.

    Raises:
        UserError: what cannot be loaded, is no reward model, or is not what its manifest says.
    """

    @explain_out_of_memory(TOO_LARGE)
    def __init__(
        self, model: str | Path, *, revision: str | None = None, device: Device | None = None
    ) -> None:
        import torch

        device = device or Device()
        folder = find(model, revision)
        _check_manifest(folder)
        self.digest = model_digest(folder)
        self.tokenizer = load_tokenizer(folder)
        on_gpu = device.device != "cpu" and torch.cuda.is_available()
        place = "cuda" if on_gpu else "cpu"
        check(folder)
        dtype = choose_dtype(folder, place, device.dtype)
        self.model = load_model(folder, dtype, new_head=False)
        check_tokenizer(self.tokenizer, self.model.config, folder)
        # The head reads the last token that is no padding, which the configuration has to name.
        self.model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
        self.model.to(place).eval()
        self.context = context(self.model, self.tokenizer)

    def render(self, prompt: str) -> str:
        """A user's turn as the model was taught to see prompts, where it has a chat template."""
        return render(prompt, self.tokenizer)

    @explain_out_of_memory(TOO_LARGE)
    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Rewards:
        """The reward of each response to its prompt, shape (n,).

        Prompts are text as a policy sees it. A text longer than the model reads loses the
        beginning of its prompt, as the response is what is judged.

        Raises:
            UserError: a reward is not a number.
        """
        import torch

        rows = [
            encode(prompt, response, self.tokenizer)[-self.context :]
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        rewards = np.zeros(len(rows))
        with torch.inference_mode(), track("score", len(rows), "responses") as advance:
            for batch in batches([len(row) for row in rows]):
                longest = max(len(rows[i]) for i in batch)
                ids = torch.full((len(batch), longest), self.tokenizer.pad_token_id)
                mask = torch.zeros_like(ids)
                for place, i in enumerate(batch):
                    ids[place, : len(rows[i])] = torch.tensor(rows[i])
                    mask[place, : len(rows[i])] = 1
                device = self.model.device
                found = self.model(
                    input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
                )
                rewards[batch] = found.logits[:, 0].double().cpu().numpy()
                advance(len(batch))
        if not np.isfinite(rewards).all():
            raise UserError(
                "The reward model gives rewards that are no numbers; its weights are broken, or "
                "float16 is too narrow for them."
            )
        return rewards


class Ensemble:
    """Several reward models as one: their mean, less `beta` times their spread.

    Models that differ in the seed of their head err in different places, which a policy finds one
    by one; where they disagree the lower bound trusts none (T. Coste et al., arXiv 2310.02743).
    Rewards have no common zero of their own: train the members with `center`.

    Raises:
        UserError: there are fewer than two.
    """

    def __init__(self, members: Sequence[Scorer], beta: float = 0.0) -> None:
        if len(members) < 2:
            raise UserError("An ensemble has two reward models or more.")
        self.members = members
        self.beta = beta
        self.digest = digest([[member.digest for member in members], beta])

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Rewards:
        """The bound on the reward of each response, shape (n,)."""
        found = [member.score(prompts, responses) for member in self.members]
        return lower_bound(found, self.beta)


def lower_bound(rewards: npt.ArrayLike, beta: float) -> Rewards:
    """mean - beta * standard deviation (k - 1 degrees of freedom) of rewards of shape (k, n)."""
    found = np.asarray(rewards, dtype=np.float64)
    return np.asarray(found.mean(axis=0) - beta * found.std(axis=0, ddof=1))


def margins(scorer: Scorer, preferences: Sequence[Preference]) -> Rewards:
    """Reward of the chosen response minus that of the rejected one, shape (n,)."""
    prompts = [one.prompt for one in preferences]
    texts = [one.chosen for one in preferences] + [one.rejected for one in preferences]
    chosen, rejected = np.split(scorer.score(prompts * 2, texts), 2)
    return np.asarray(chosen - rejected)


def batches(lengths: Sequence[int], most: int = BATCH_TOKENS) -> list[list[int]]:
    """Places in groups of like length, each with at most `most` tokens when padded, or alone."""
    groups: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        # In rising order the newcomer is the longest of its group.
        if groups and (len(groups[-1]) + 1) * lengths[place] <= most:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def _check_manifest(folder: Path) -> None:
    """See that the files are those which training wrote, where it left a manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        return
    manifest = parse(Manifest, read_json(path), str(path))
    check_files(folder, MANIFEST, manifest.files)
