"""What the objectives that TRL has not share: a trainer of a loss, and how likely tokens are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.core.schema import mean
from rlrf.objectives import data_parallel
from rlrf.objectives.checkpoints import Resumable

if TYPE_CHECKING:
    import torch

# The loss of a batch under a model, a mean over the batch, and what is worth watching of it.
Loss = Callable[[Any, dict[str, Any]], tuple["torch.Tensor", dict[str, float]]]


def trainer(loss: Loss) -> Any:
    """The class of a `transformers` trainer of `loss`, which logs the mean of its terms a step."""
    import transformers

    class Trainer(Resumable, data_parallel.WholeBatches, transformers.Trainer):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.terms: list[dict[str, float]] = []  # of the forward passes of a step

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any
        ) -> torch.Tensor:
            found, terms = loss(model, inputs)
            self.terms.append(terms)
            return found

        def log(self, logs: dict[str, float], *args: Any) -> None:
            if "loss" in logs:
                names = self.terms[0]
                logs = {**logs, **{n: mean([one[n] for one in self.terms]) for n in names}}
                self.terms.clear()
            super().log(logs, *args)

    return Trainer


def token_logps(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, learned: torch.Tensor
) -> torch.Tensor:
    """Log-probability of each token where `learned` is true, in order, shape (learned,).

    The other three have shape (texts, longest), padded at the end. No first token is learned.
    Several processes read a share of the texts each, and all get the whole.
    """

    def read(texts: Any) -> torch.Tensor:
        ids, mask, where = input_ids[texts], attention_mask[texts], learned[texts, 1:]
        output = model(input_ids=ids, attention_mask=mask, use_cache=False)
        # A log-softmax over the prompts as well would be as large as the logits again.
        logits = output.logits[:, :-1][where].float()
        chosen = logits.gather(-1, ids[:, 1:][where][:, None])[:, 0]
        found: torch.Tensor = chosen - logits.logsumexp(-1)
        return found.new_zeros(where.shape).masked_scatter(where, found)

    logps: torch.Tensor = data_parallel.whole(len(input_ids), read)[learned[:, 1:]]
    return logps
