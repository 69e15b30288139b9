"""The rows of the table: what each method's configuration is, at equal budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HEADLINE = {
    "mini_gsm8k": "accuracy",
    "mini_factscore": "precision",
    "mini_just_eval": "overall",
}
RANGES = {"mini_gsm8k": (0.0, 1.0), "mini_factscore": (0.0, 1.0), "mini_just_eval": (1.0, 5.0)}
RULES = [
    {"task": "mini_gsm8k", "metric": "accuracy", "margin": 0.05},
    {"task": "mini_factscore", "metric": "precision", "margin": 0.05},
    {"task": "mini_just_eval", "metric": "overall", "margin": 0.15},
]
TASKS = [
    {"name": "mini_gsm8k", "prompts": 48},
    {"name": "mini_factscore", "prompts": 32},
    {"name": "mini_just_eval", "prompts": 24},
]
BASE: dict[str, Any] = {
    "iterations": 2,
    "tasks": TASKS,
    "explore": {"n": 8, "temperature": 1.0},
    "reflect": {"m": 0, "temperature": 0.7},
    "pairs": {"threshold": 0.1, "per_prompt": 2, "min_chosen": 0.6},
    "train": {"beta": 0.1, "learning_rate": 5.0e-4, "batch_size": 8, "max_length": 400},
    "gate": {"slice": 100, "sealed": 300, "policy": {"alpha": 0.05, "rules": RULES}},
    "engine": {"device": "cpu"},
}
# Of the eight responses a prompt two are rewrites.
REFLECT: dict[str, Any] = {"explore": {"n": 6}, "reflect": {"m": 2}}
# An epoch of responses is half of one of pairs.
RESPONSES: dict[str, Any] = {"train": {"epochs": 2}}

# Half of the eight are the rewriter's; as many of them are learned as there are pairs elsewhere.
REWRITES: dict[str, Any] = {
    "explore": {"n": 4},
    "pairs": {"max_total": 150},
    "rlmec": {"train": {"learning_rate": 1.0e-3, "epochs": 2, "batch_size": 16, "max_length": 480}},
}

# Stand for what is made for the benchmark: reward models and demonstrations.
ALL, SER, ENSEMBLE, DEMONSTRATIONS = "all labels", "ser", "ensemble", "demonstrations"
REWARD: dict[str, Any] = {"reward": {"models": ALL}}

# Where a method starts: the seed policy, or one that seldom samples a careful answer.
M0, SELDOM = "M0", "seldom"

# What is rare takes longer to become usual: one iteration of four times the training.
ONCE: dict[str, Any] = {"iterations": 1}
LONGER: dict[str, Any] = {"train": {"epochs": 4}}
LONGER_RESPONSES: dict[str, Any] = {"train": {"epochs": 8}}

# start -> row -> what of `BASE` is otherwise
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    M0: {
        "rejection sampling, reward": {"method": "rejection_sampling", **REWARD, **RESPONSES},
        "rejection sampling, score": {"method": "rejection_sampling", **RESPONSES},
        "reward only": {"method": "reward_only", **REWARD},
        "reward ensemble": {
            "method": "reward_only",
            "reward": {"models": ENSEMBLE, "beta": 1.0},
        },
        "demonstration-anchored": {
            "method": "reward_only",
            "reward": {"models": ALL, "demonstrations": DEMONSTRATIONS},
        },
        "RRHF": {"method": "rrhf", **REWARD, "train": {"batch_size": 4}},
        "SLiC-HF": {
            "method": "reward_only",
            **REWARD,
            "train": {"loss": {"hinge": 1.0, "sft": 0.1}},
        },
        "SER": {"method": "reward_only", "reward": {"models": SER}},
        "RLMEC": {"method": "rlmec", **REWRITES},
        "RLRF": {**REFLECT, **REWARD, "explore": {"n": 6, "keep": 4}},
        "RLRF without the filter": REFLECT,
        "RLRF without reflection": {},
        "RLRF without fine-grained feedback": {
            **REFLECT,
            "tasks": [{**task, "feedback": "score"} for task in TASKS],
        },
    },
    SELDOM: {
        "rejection sampling, score": {**ONCE, "method": "rejection_sampling", **LONGER_RESPONSES},
        "reward only": {**ONCE, "method": "reward_only", **REWARD, **LONGER},
        "RLRF": {**ONCE, **REFLECT, **LONGER},
        "RLRF without reflection": {**ONCE, **LONGER},
    },
}


def slug(start: str, row: str, seed: int) -> str:
    """The name of a run's folder."""
    words = row.lower().replace(",", "").replace(" ", "_")
    return f"{start.lower()}.{words}.{seed}"


def fill(change: dict[str, Any], seed: int, places: dict[str, Any]) -> dict[str, Any]:
    """A row's configuration, whole: `places` says where what is named in it lies."""
    config: dict[str, Any] = {"model": str(places["model"]), "seed": seed, **BASE}
    for key, value in change.items():
        if key == "reward":
            named = {
                name: places[one] if isinstance(one, str) else one for name, one in value.items()
            }
            config[key] = {
                name: [str(p) for p in one]
                if isinstance(one, list)
                else str(one)
                if isinstance(one, Path)
                else one
                for name, one in named.items()
            }
        elif isinstance(value, dict):
            config[key] = {**config.get(key, {}), **value}
        else:
            config[key] = value
    return config
