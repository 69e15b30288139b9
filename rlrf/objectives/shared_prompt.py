"""Compute log-probabilities of preference pairs while reading each prompt only once.

TRL reads prompt + chosen and prompt + rejected, padded to the longest, and on a CPU scores every
position. Here a batch is one row without padding,

    prompt chosen rejected | prompt chosen rejected | ...

A token attends only to its own pair, and a rejected response to its prompt but not to the chosen
response before it. Positions are those of separate texts (prefix sharing, F. Wang and S. Hegde,
arXiv 2410.20305). The model's head reads only the positions that predict a response token.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ATTENTION = "shared_prompt"
# Metrics that TRL logs per forward pass and that are not computed here.
UNMEASURED = ("entropy", "logits/chosen", "logits/rejected", "mean_token_accuracy")


def is_supported(model: Any) -> bool:
    """Whether `model` mixes tokens only by full attention in torch's own kernel."""
    config = model.config.get_text_config()
    takes = inspect.signature(type(model).forward).parameters
    return (
        config._attn_implementation == "sdpa"
        and model._can_set_attn_implementation()
        and not model._is_stateful
        and set(getattr(config, "layer_types", None) or ()) <= {"full_attention"}
        and getattr(config, "sliding_window", None) is None
        and not hasattr(config, "output_router_logits")  # experts are balanced over all tokens
        and {"position_ids", "logits_to_keep", "kwargs"} <= takes.keys()
    )


def prepare(model: Any) -> None:
    """Switch the attention of `model` to the rows of `reader`; it can read no others afterwards."""
    AttentionInterface.register(ATTENTION, _attention)
    model.set_attn_implementation(ATTENTION)


def reader(model: Any) -> Callable[..., SimpleNamespace]:
    """Return the callable that TRL uses in place of `model`, which must be prepared."""

    def read(
        input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, **_: Any
    ) -> SimpleNamespace:
        """Return `log_probs` of shape (texts, longest - 1), 0 where there is no label.

        All inputs have shape (texts, longest), padded at the end: chosen texts, then rejected.
        """
        lengths, responses = attention_mask.sum(1), (labels != -100).sum(1)
        prompts = lengths - responses
        chosen, rejected = responses.chunk(2)
        pairs = torch.stack([prompts[: len(chosen)], chosen, rejected], 1)
        starts = pairs.sum(1).cumsum(0) - pairs.sum(1)
        column = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        place = column + starts.repeat(2)[:, None]  # index in the row
        place[len(chosen) :] += chosen[:, None] * (column >= prompts[:, None])[len(chosen) :]

        read, predicted = attention_mask.bool(), labels[:, 1:] != -100
        row, position = input_ids.new_empty(2, int(pairs.sum()))
        row[place[read]], position[place[read]] = input_ids[read], column[read]
        logits = model(
            input_ids=row[None],
            position_ids=position[None],
            logits_to_keep=place[:, :-1][predicted],
            pairs=[(p, c, r, _sees(p, r, row.device)) for p, c, r in pairs.tolist()],
            use_cache=False,
        ).logits[0]
        target = labels[:, 1:][predicted]
        logps = -torch.nn.functional.cross_entropy(logits.float(), target, reduction="none")
        return output(logps.new_zeros(predicted.shape).masked_scatter(predicted, logps))

    return read


def output(log_probs: torch.Tensor, aux_loss: torch.Tensor | None = None) -> SimpleNamespace:
    """Wrap log-probabilities as TRL expects them, without the `UNMEASURED` metrics."""
    nothing = torch.zeros_like(log_probs, dtype=torch.bool)
    return SimpleNamespace(
        log_probs=log_probs,
        entropy=nothing,
        mean_logits=nothing,
        is_top1=nothing,
        aux_loss=aux_loss,
    )


def _sees(prompt: int, rejected: int, device: torch.device) -> torch.Tensor:
    """Attention mask of a rejected response over its prompt and itself."""
    ones = torch.ones(rejected, prompt + rejected, dtype=torch.bool, device=device)
    return ones.tril(prompt)[None, None]


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    pairs: list[tuple[int, int, int, torch.Tensor]],
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend inside each of `pairs`; the tensors have shape (1, heads, tokens, head size)."""
    sizes = [size for prompt, chosen, rejected, _ in pairs for size in (prompt, chosen, rejected)]
    # Slicing would give each slice a gradient as large as the row.
    queries, keys, values = (torch.split(states, sizes, 2) for states in (query, key, value))
    parts = []
    for i, (_, _, rejected, sees) in zip(range(0, len(sizes), 3), pairs, strict=True):
        whole = (torch.cat(states[i : i + 2], 2) for states in (queries, keys, values))
        parts.append(sdpa_attention_forward(module, *whole, None, **kwargs)[0])
        if rejected:
            seen = (torch.cat([states[i], states[i + 2]], 2) for states in (keys, values))
            parts.append(sdpa_attention_forward(module, queries[i + 2], *seen, sees, **kwargs)[0])
    return torch.cat(parts, 1), None
