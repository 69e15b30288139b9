"""Logs and results that are damaged, unfinished, forged or too large are refused in a sentence."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.foreign import FIXTURES

import rlrf
from harness.core.errors import UserError
from harness.core.scored import ScoredEvaluation
from harness.readers import inspect_logs

NEW, OLD = FIXTURES / "inspect-0.3.285", FIXTURES / "inspect-0.3.50"
WHOLE = [
    NEW / "before.eval",
    OLD / "before.eval",
    NEW / "before.json",
    FIXTURES / "promptfoo-0.123.1" / "before.json",
    FIXTURES / "promptfoo-0.123.1" / "before.jsonl",
    next((FIXTURES / "deepeval-4.3.1" / "before").iterdir()),
    FIXTURES / "nemo-evaluator-0.2.8" / "before" / "sums" / "byob_predictions.jsonl",
]


def only(path: Path) -> ScoredEvaluation:
    ((_, scored),) = rlrf.load_evaluation(path).items()
    return scored


def fault(path: Path) -> str:
    with pytest.raises(UserError) as error:
        rlrf.load_evaluation(path)
    return str(error.value)


def copied(source: Path, folder: Path, data: bytes) -> Path:
    path = folder / source.name
    path.write_bytes(data)
    return path


def changed(source: Path, folder: Path, edit: Callable[[Any], None]) -> Path:
    """A copy of a JSON file that is edited."""
    value = json.loads(source.read_text())
    edit(value)
    return copied(source, folder, json.dumps(value).encode())


def log_with(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a log of Inspect of which each sample is edited."""
    path = folder / "edited.eval"
    with zipfile.ZipFile(OLD / "before.eval") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = json.loads(old.read(name))
            if name.startswith("samples/"):
                edit(data)
            new.writestr(name, json.dumps(data))
    return path


def values(scored: ScoredEvaluation, metric: str) -> Iterator[float | str]:
    for score in scored.scores:
        yield score.values.get(metric, score.unscored.get(metric, "neither"))


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_file_that_is_cut_short_is_refused(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    for size in (len(data) - 30, len(data) // 2, len(data) // 10):
        assert path.name.partition("_")[0] in fault(copied(path, tmp_path, data[:size]))


@pytest.mark.parametrize("path", WHOLE[:2], ids=["zstd", "deflate"])
def test_a_log_of_which_bytes_were_changed_is_refused_or_read_as_it_is(
    path: Path, tmp_path: Path
) -> None:
    data = path.read_bytes()
    whole = only(path)
    for place in range(0, len(data), 97):
        spoiled = data[:place] + bytes([data[place] ^ 0x5A]) + data[place + 1 :]
        try:
            found = rlrf.load_evaluation(copied(path, tmp_path, spoiled))
        except UserError:
            continue
        ((_, scored),) = found.items()
        assert scored.evaluation.scores_digest == whole.evaluation.scores_digest


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect_logs, "MAX_UNPACKED_BYTES", 10_000_000)
    path = tmp_path / "bomb.eval"
    with zipfile.ZipFile(OLD / "before.eval") as old:
        header = old.read("header.json")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("header.json", header)
        events = ",".join(['"' + "x" * 1000 + '"'] * 30_000)
        bomb.writestr("samples/1.json", '{"id": 1, "epoch": 1, "events": [' + events + "]}")
    assert path.stat().st_size < 1_000_000
    assert "unpacks to more than" in fault(path)


def test_a_value_too_large_to_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("header.json", '{"eval": "' + "x" * 20_000_000 + '"}')
    assert "more than" in fault(path)


def test_a_log_without_its_end_says_how_to_finish_it(tmp_path: Path) -> None:
    path = tmp_path / "started.eval"
    with zipfile.ZipFile(OLD / "before.eval") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if name != "header.json":
                new.writestr(name, old.read(name))
    assert "inspect eval-retry" in fault(path)
    with zipfile.ZipFile(path, "w") as new:
        new.writestr("hello.txt", "hello")
    assert "not a whole log of Inspect" in fault(path)


def test_a_log_that_lacks_samples_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fewer.eval"
    with zipfile.ZipFile(OLD / "before.eval") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if not name.startswith("samples/s5"):
                new.writestr(name, old.read(name))
    assert "has 10 samples and says that 12 were evaluated" in fault(path)


def test_grades_are_numbers_as_for_inspect_and_what_is_none_is_unscored(tmp_path: Path) -> None:
    graded: dict[str, Any] = {
        "s0": "C", "s1": "P", "s2": "N", "s3": "yes", "s4": "0.25", "s5": "perhaps",
    }  # fmt: skip
    path = log_with(tmp_path, lambda s: s["scores"]["match"].update(value=graded[s["id"]]))
    scored = only(path)
    by_name = {
        item.document["id"]: [*values(scored, "match")][2 * item.index] for item in scored.items
    }
    assert {n: by_name[n] for n in ("s0", "s1", "s2", "s3", "s4")} == {
        "s0": 1, "s1": 0.5, "s2": 0, "s3": 1, "s4": 0.25,
    }  # fmt: skip
    assert "perhaps" in str(by_name["s5"])
    assert scored.evaluation.definitions["match"].span == 1


@pytest.mark.parametrize("value", ["NaN", "Infinity", "null", "[1, 2]", '{"a": NaN}'])
def test_scores_that_are_no_numbers_are_unscored(value: str, tmp_path: Path) -> None:
    number = json.loads(value)
    path = log_with(tmp_path, lambda sample: sample["scores"]["match"].update(value=number))
    assert all(isinstance(found, str) for found in values(only(path), "match"))


def test_a_sample_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = log_with(tmp_path, lambda sample: sample.update(epoch=1))
    assert only(path).evaluation.items == 12  # the same question in two places
    path = log_with(tmp_path, lambda s: s.update(epoch=1) if s["id"] == "s0" else None)
    assert "Every item needs the same number" in fault(path)
    path = log_with(tmp_path, lambda sample: sample.pop("epoch"))
    assert "no id or no epoch" in fault(path)


def test_messages_are_compared_without_their_random_ids(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        log_with(
            folder,
            lambda s, number=number: s.update(  # type: ignore[misc]
                input=[{"id": f"r{number}", "role": "user", "content": s["input"]}]
            ),
        )
    digests = [only(folder).evaluation.dataset_digest for folder in folders]
    assert digests[0] == digests[1]


def test_results_that_are_not_a_tools_are_refused(tmp_path: Path) -> None:
    promptfoo = FIXTURES / "promptfoo-0.123.1" / "before.json"
    path = changed(promptfoo, tmp_path, lambda v: v["results"]["results"][0].pop("success"))
    assert "result 1: not a result of promptfoo" in fault(path)
    deepeval = WHOLE[5]
    path = changed(deepeval, tmp_path, lambda v: v["testCases"][1].pop("input"))
    assert "test case 2: not a test case of DeepEval" in fault(path)
    path = changed(deepeval, tmp_path, lambda v: v.update(conversationalTestCases=[{}]))
    assert "holds conversations" in fault(path)
    path = changed(
        deepeval, tmp_path, lambda v: v["testCases"][0]["metricsData"][0].update(success=False)
    )
    assert "do not tell whether a higher score is better" in fault(path)


@pytest.mark.parametrize("text", ["", "{}", "null", "3", '{"a": 1}', "{", '{"results": {}}'])
def test_json_of_unknown_origin_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "unknown.json"
    path.write_text(text)
    assert "unknown.json" in fault(path)
    if text == '{"a": 1}':
        assert "is not a file that can be read here" in fault(path)
