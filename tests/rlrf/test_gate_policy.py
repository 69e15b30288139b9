"""The gate's policy of a run: its own or the default, its clusters and its promotion threshold."""

from __future__ import annotations

from pathlib import Path

import pytest

import tasks
from harness.core.errors import UserError
from harness.core.schema import Policy
from rlrf.config import Config, load
from rlrf.context import choose_gate_policy

CONFIG = """
model: m0
tasks: [{{name: mini_gsm8k}}]
gate: {gate}
"""
RULE = "rules: [{task: mini_gsm8k, metric: accuracy, margin: 0.05}]"


def configured(tmp_path: Path, gate: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(gate=gate))
    return load(path)


def chosen(config: Config) -> Policy:
    return choose_gate_policy(config, {"mini_gsm8k": tasks.load("mini_gsm8k")}, {})


def test_the_gate_block_sets_the_threshold_of_its_own_and_of_the_default_policy(
    tmp_path: Path,
) -> None:
    for block in (
        "{promotion: {threshold: 2}}",
        f"{{policy: {{{RULE}}}, promotion: {{threshold: 2}}}}",
    ):
        promotion = chosen(configured(tmp_path, block)).promotion
        assert promotion is not None and promotion.threshold == 2
    inside = configured(tmp_path, f"{{policy: {{{RULE}, promotion: {{threshold: 3}}}}}}")
    promotion = chosen(inside).promotion
    assert promotion is not None and promotion.threshold == 3
    assert chosen(configured(tmp_path, "{slice: 100}")).promotion is None


def test_two_thresholds_are_one_too_many(tmp_path: Path) -> None:
    both = f"{{promotion: {{threshold: 2}}, policy: {{{RULE}, promotion: {{threshold: 3}}}}}}"
    with pytest.raises(UserError, match="are both given: keep one"):
        configured(tmp_path, both)


def test_a_run_without_a_threshold_is_identified_as_before(tmp_path: Path) -> None:
    plain = configured(tmp_path, "{slice: 100}")
    assert "promotion" not in plain.model_dump(mode="json")["gate"]


def test_a_cluster_that_gate_items_lack_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="by 'passage', which is not a tag or field of theirs"):
        chosen(configured(tmp_path, f"{{policy: {{{RULE}, cluster: passage}}}}"))
    assert (
        chosen(configured(tmp_path, f"{{policy: {{{RULE}, cluster: steps}}}}")).cluster == "steps"
    )
