"""Compare how responses were generated, whichever library named the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULT_MAX_TOKENS = 256  # in lm-eval and in our engines
OTHER_NAMES = {
    "max_tokens": ("max_gen_toks", "max_new_tokens", "max_completion_tokens"),
    "stop": ("until",),
}
UNSET: Mapping[str, tuple[Any, ...]] = {
    "top_p": (1, None),
    "top_k": (0, -1, None),
    "min_p": (0, None),
}
NOT_DECODING = ("n", "seed")  # responses per item, and the random numbers


def normalize_decoding(decoding: Mapping[str, Any]) -> dict[str, Any]:
    """Write decoding settings in one form, so that settings with the same effect are equal.

    Other libraries' names become ours, defaults are filled in or left out, and settings that greedy
    decoding ignores are left out. Empty settings, as of recorded responses or of likelihoods, stay
    empty.
    """
    known = {k: _number(v) for k, v in decoding.items() if k not in NOT_DECODING}
    if not known:
        return {}
    for name, others in OTHER_NAMES.items():
        for other in others:
            value = known.pop(other, None)
            if known.get(name) is None and value is not None:
                known[name] = value
    known["stop"] = _stop_strings(known.get("stop"))
    if known.get("max_tokens") is None:
        known["max_tokens"] = DEFAULT_MAX_TOKENS
    sampled = known.pop("do_sample", None)
    if sampled is False or (not sampled and known.get("temperature") is None):
        known["temperature"] = 0
    if known.get("temperature") == 0:
        return {k: v for k, v in known.items() if k not in UNSET}
    return {k: v for k, v in known.items() if v not in UNSET.get(k, ())}


def _stop_strings(value: Any) -> list[str]:
    values = value if isinstance(value, list | tuple) else [value]
    return sorted({str(text) for text in values if text})


def _number(value: Any) -> Any:
    """Return 1 for 1.0, so that JSON writes them alike."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
