"""Large linear layers on a CPU, their weights laid out once for the products they are used in.

torch hands a product of float32 to a library that lays the weight out anew each time, which costs
as much as the product itself while rows are few. oneDNN takes a weight that is laid out already.
What a product gains: 1.6 at 8 rows, 1.2 at 64 and at 2,048 (512 x 1,536; a vocabulary of 32,000:
2.3, 1.7). A call costs some 12 us more, so that small layers stay as they are.
"""

from __future__ import annotations

import platform
from typing import Any

import torch

LARGE = 1 << 18  # weights of a layer that gains with any number of rows


class Packed(torch.nn.Module):
    """What `linear` computes, without gradients."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    @property
    def weight(self) -> torch.Tensor:
        """A copy, for models that look at it."""
        dense: torch.Tensor = self._packed.to_dense()
        return dense

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, self._packed, self.bias, "none", [], ""
        )
        return found


def pack(model: Any) -> None:
    """Pack the large linear layers of `model`, where this processor gains by it.

    Such a model can be saved as before, but not trained. On another device than a CPU, and on a CPU
    other than x86, where this was not measured, nothing is done.
    """
    if model.device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    # Of layers only one at a time is held here: each that is packed gives its memory back.
    for parent in [part for part in model.modules() if any(True for _ in part.children())]:
        for name, layer in list(parent.named_children()):
            # Subclasses compute something else.
            if type(layer) is torch.nn.Linear and _gains(layer.weight):
                setattr(parent, name, Packed(layer))


def _gains(weight: torch.Tensor) -> bool:
    if weight.dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return weight.dtype in (torch.float32, torch.bfloat16) and weight.numel() >= LARGE
