"""Files that people write: what is read, and what they are told."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from harness.core.errors import UserError
from harness.core.schema import Policy, Rule
from harness.gate.policy import load_policy

GOOD = """
alpha: 0.025
rules:
  - {task: gsm8k, metric: accuracy, margin: 0.02}
  - {task: just_eval, metric: overall, tier: guardrail, margin: 0.1}
"""


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_policy_is_read(tmp_path: Path) -> None:
    expected = Policy(
        alpha=0.025,
        rules=[
            Rule(task="gsm8k", metric="accuracy", margin=0.02),
            Rule(task="just_eval", metric="overall", tier="guardrail", margin=0.1),
        ],
    )
    assert load_policy(written(tmp_path, GOOD)) == expected
    assert load_policy(written(tmp_path, expected.model_dump_json())) == expected


@pytest.mark.parametrize("text", [GOOD, GOOD.lstrip()])
def test_a_byte_order_mark_before_settings_is_passed_over(tmp_path: Path, text: str) -> None:
    marked = codecs.BOM_UTF8 + text.encode()
    assert load_policy(written(tmp_path, marked)) == load_policy(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace("alpha", "alhpa"), "no key 'alhpa'. Did you mean 'alpha'?"),
        (GOOD.replace("metric", "metrics"), "no key 'rules.0.metrics'. Did you mean 'metric'?"),
        (GOOD.replace("alpha", "zzz"), "Known are alarms, allow_different, alpha, cluster, "),
        (GOOD.replace("metric: accuracy, ", ""), "'rules.0.metric' is missing."),
        (GOOD.replace("guardrail", "important"), "rules.1.tier: Input should be 'critical'"),
        (GOOD.replace("0.02}", "-1}"), "rules.0.margin: Input should be greater than 0, not -1."),
        (GOOD + "alpha: 0.1", "the key 'alpha' is there twice"),
        ("alpha: 0.05", "'rules' is missing."),
        ("rules: []", "rules: List should have at least 1 item"),
        ("rules: [1]", "rules.0: Input should be a valid dictionary"),
        ("", "keys and values are expected"),
        ("- 1", "keys and values are expected"),
        ("a: [", "is not YAML"),
        (b"\xff\xfe\xff", "is not YAML"),
        ("a: 2000-99-99", "is not YAML"),
        ("a: !!timestamp soon", "a value does not fit its tag"),
        ("a: !!bool maybe", "a value does not fit its tag"),
        ("a: !!int ''", "a value does not fit its tag"),
        ("a: !!set [1]", "a value does not fit its tag"),
        ("a: !!python/name:os.system", "is not YAML"),
        ("a: " + "9" * 5000, "is not YAML"),
        ("[" * 100_000, "its brackets are nested deeper than 50"),
        ("a: &a [*a]", "its aliases stand for more than 10,000 values"),
        (f"{list(range(10_001))}: 1\n", "it has more than 10,000 values"),
        ("a: " + "b" * 200_000, "is larger than 131,072 bytes"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str | bytes, told: str) -> None:
    with pytest.raises(UserError) as caught:
        load_policy(written(tmp_path, text))
    assert told in str(caught.value)
    assert str(tmp_path / "policy.yaml") in str(caught.value)


LAUGHS = "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
MERGES = "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 60))


@pytest.mark.timeout(30)  # all that they stand for would take longer than there is time
@pytest.mark.parametrize(
    "text",
    ["a0: &a0 [x, x]\n" + LAUGHS, "a0: &a0 {x: 1}\n" + MERGES, f"a0: &a0 [x]\n{LAUGHS}? *a59\n: 1"],
)
def test_a_few_lines_cannot_stand_for_more_than_memory_holds(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="aliases stand for more than 10,000 values"):
        load_policy(written(tmp_path, text))


def test_aliases_and_merges_may_be_used(tmp_path: Path) -> None:
    rules = "rules: [&r {task: a, metric: m, margin: 0.1}, {<<: *r, task: b}]"
    policy = load_policy(written(tmp_path, rules))
    assert [(rule.task, rule.metric) for rule in policy.rules] == [("a", "m"), ("b", "m")]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file"):
        load_policy(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_policy(tmp_path)
