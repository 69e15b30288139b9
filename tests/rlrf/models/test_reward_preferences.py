from __future__ import annotations

import json

import pytest
from helpers import toy

from harness.core.errors import UserError
from harness.core.schema import Item, Sample
from rlrf.models.reward.preferences import Preference, check_columns, from_rows, read_preferences
from rlrf.models.reward.world import FORM, RESULT, preferences_of, sample_preferences
from rlrf.models.trained_model import split_by_prompt
from tasks.mini import TASKS

ARITHMETIC = TASKS[0]
ROW = {"prompt": "p", "chosen": "good", "rejected": "bad"}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_preferences_and_a_runs_pairs_are_both_read(tmp_path):
    pair = ROW | {
        "task": "mini_gsm8k",
        "item": "x",
        "index": 0,
        "gap": 1.0,
        "similarity": 0.5,
        "chosen_origin": "explored",
        "rejected_origin": "refined",
        "rejected_cut": False,
    }
    path = write(tmp_path / "pairs.jsonl", ROW, ROW | {"domain": "sums"}, pair)
    assert [one.domain for one in read_preferences(path)] == ["", "sums", "mini_gsm8k"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "p", "chosen": "a"}, "line 1: rejected"),
        (ROW | {"rejected": "good"}, "nothing is preferred"),
        (ROW | {"score": 1}, "line 1: score"),
    ],
)
def test_what_is_no_preference_is_told_with_its_line(tmp_path, row, said):
    with pytest.raises(UserError, match=said):
        read_preferences(write(tmp_path / "pairs.jsonl", row))


def test_an_empty_file_holds_no_preferences(tmp_path):
    with pytest.raises(UserError, match="holds no preferences"):
        read_preferences(write(tmp_path / "pairs.jsonl"))


def test_a_data_set_of_the_hub_is_read_by_named_columns():
    datasets = pytest.importorskip("datasets")
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"}]
    rows = datasets.Dataset.from_list(
        [
            {"q": "q", "best": talk, "worst": [{"role": "assistant", "content": text}]}
            for text in ("no", "yes")
        ]
    )
    columns = {"prompt": "q", "chosen": "best", "rejected": "worst"}
    assert from_rows(rows, columns, "a/b") == [Preference(prompt="q", chosen="yes", rejected="no")]
    with pytest.raises(UserError, match="no column 'better'; it has best, q, worst"):
        from_rows(rows, columns | {"chosen": "better"}, "a/b")
    with pytest.raises(UserError, match="Did you mean 'chosen'"):
        check_columns(columns | {"chosn": "best"})
    with pytest.raises(UserError, match="which column is the rejected"):
        check_columns({"prompt": "q", "chosen": "best"})


def test_a_split_keeps_the_pairs_of_a_prompt_together():
    found = [Preference(prompt=f"p{i // 3}", chosen="good", rejected=f"bad {i}") for i in range(90)]
    seed, rest = split_by_prompt(found, 0.15, seed=1)
    assert 14 <= len(seed) <= 16
    assert not {one.prompt for one in seed} & {one.prompt for one in rest}
    assert len(seed) + len(rest) == 90
    assert (
        split_by_prompt(found, 0.15, seed=1) == (seed, rest) != split_by_prompt(found, 0.15, seed=2)
    )


def test_preferences_of_samples_follow_the_tasks_own_score():
    items: dict[str, Item] = {item.digest: item for item in toy.items("train")}
    samples = [
        toy.sample("4", 0, index=0),
        toy.sample("9", 1, index=0),
        toy.sample("cut 4", 2, index=0, finish_reason="length"),
        toy.sample("9", 0, index=1),
        toy.sample("8", 1, index=1),
    ]
    found = preferences_of(samples, items, {"toy": toy.TASK}, seed=0)
    assert [(one.chosen, one.rejected) for one in found] == [("4", "9")]


def test_arithmetic_is_compared_by_form_and_by_result():
    item = ARITHMETIC.items("train")[0]
    worked = item.reference["answer"]
    texts = [worked, worked.replace("####", "#### 1"), "#### 3"]
    samples = [
        Sample(task=item.task, item=item.digest, index=0, repeat=i, prompt="<p>", response=text)
        for i, text in enumerate(texts)
    ]
    found = preferences_of(samples, {item.digest: item}, {item.task: ARITHMETIC}, seed=0)
    assert found == [
        Preference(prompt="<p>", chosen=worked, rejected=texts[2], domain=FORM),
        Preference(prompt="<p>", chosen=worked, rejected=texts[1], domain=RESULT),
    ]


@pytest.mark.slow
def test_a_policy_gives_preferences_of_all_three_benchmarks():
    from harness.engines.hf import HFEngine
    from rlrf.quickstart import seed_policy

    found = sample_preferences(HFEngine(seed_policy(), device="cpu"), 5, n=3)
    assert {one.domain for one in found} >= {"biography", "instructions"}
    assert all(one.prompt.startswith("<|user|>") for one in found)
