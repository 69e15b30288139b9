"""Evaluations that claim too much, with every digest and chain right: gate, board and verify."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.build import build_evaluation, sample_of

import tasks
from harness.board import Board, ledger
from harness.board.ledger import EvaluationEntry, Row
from harness.core.files import jsonl_bytes, records_digest, write_bytes
from harness.core.schema import Metric, ModelRef, Score
from harness.core.scored import ScoredEvaluation
from harness.evals import evaluation
from rlrf.cli import run

TASK = tasks.load("mini_gsm8k")
ITEMS = TASK.items("gate", None)[:200]
Capture = pytest.CaptureFixture[str]


def answered(right: int, **fields: Any) -> ScoredEvaluation:
    """The first 200 items of the gate split, the first `right` of them answered right."""
    samples = [
        sample_of(
            item, item.reference["answer"] if i < right else "#### 1000", finish_reason="stop"
        )
        for i, item in enumerate(ITEMS)
    ]
    known: dict[str, Any] = {
        "model": ModelRef(id=f"right{right}", digest=hashlib.sha256(b"%d" % right).hexdigest()),
        "engine": "hf",
        "decoding": {"max_tokens": 80, "n": 1, "stop": [], "temperature": 0.0, "top_p": 1.0},
        "split": "gate",
        "prompt_digest": "p",
    }
    return build_evaluation(TASK, ITEMS, samples, **(known | fields))


def with_scores(made: ScoredEvaluation, scores: Sequence[Score], **fields: Any) -> ScoredEvaluation:
    """The evaluation with other scores: samples, sums and digests that belong to them."""
    known = {(s.index, s.item): s for s in made.samples}
    by_index = {s.index: s for s in made.samples}
    samples = [
        known.get((s.index, s.item), by_index[s.index]).model_copy(
            update={"repeat": s.repeat, "item": s.item}
        )
        for s in scores
    ]
    update = {
        "metrics": TASK.aggregate(scores),
        "scores_digest": records_digest(scores),
        "samples_digest": records_digest(samples),
    }
    changed = made.evaluation.model_copy(update=update | fields)
    return ScoredEvaluation(changed, list(scores), samples, made.items)


def with_value(value: float) -> Callable[[ScoredEvaluation], ScoredEvaluation]:
    def change(made: ScoredEvaluation) -> ScoredEvaluation:
        last = made.scores[-1]
        better = last.model_copy(update={"values": last.values | {"accuracy": value}})
        return with_scores(made, [*made.scores[:-1], better])

    return change


def with_definition(
    name: str = "accuracy", **fields: Any
) -> Callable[[ScoredEvaluation], ScoredEvaluation]:
    def change(made: ScoredEvaluation) -> ScoredEvaluation:
        known = made.evaluation.definitions
        metric = known.get(name, Metric(name=name, kind="binary")).model_copy(update=fields)
        return with_scores(made, made.scores, definitions=known | {name: metric})

    return change


def only_the_right_ones(made: ScoredEvaluation) -> ScoredEvaluation:
    return with_scores(made, [s for s in made.scores if s.values["accuracy"] == 1])


def nine_more_for_the_wrong_ones(made: ScoredEvaluation) -> ScoredEvaluation:
    right = {"accuracy": 1.0, "strict_match": 1.0, "flexible_extract": 1.0}
    more = [
        s.model_copy(update={"repeat": k, "values": s.values | right})
        for s in made.scores
        if s.values["accuracy"] == 0
        for k in range(1, 10)
    ]
    scores = sorted([*made.scores, *more], key=lambda s: (s.index, s.repeat))
    return with_scores(made, scores)


def three_for_every_item(made: ScoredEvaluation) -> ScoredEvaluation:
    scores = [s.model_copy(update={"repeat": k}) for s in made.scores for k in range(3)]
    return with_scores(made, scores)


def twice(made: ScoredEvaluation) -> ScoredEvaluation:
    return with_scores(made, [*made.scores, made.scores[0]])


def of_other_items(made: ScoredEvaluation) -> ScoredEvaluation:
    scores = [
        s.model_copy(update={"item": hashlib.sha256(s.item.encode()).hexdigest()})
        for s in made.scores
    ]
    return with_scores(made, scores)


def of_another_task(made: ScoredEvaluation) -> ScoredEvaluation:
    return with_scores(made, [s.model_copy(update={"task": "poll"}) for s in made.scores])


def two_items_at_one_place(made: ScoredEvaluation) -> ScoredEvaluation:
    moved = made.scores[1].model_copy(update={"index": made.scores[0].index})
    return with_scores(made, [made.scores[0], moved, *made.scores[2:]])


def without_values(made: ScoredEvaluation) -> ScoredEvaluation:
    bare = [
        s.model_copy(update={"values": {k: v for k, v in s.values.items() if k != "accuracy"}})
        for s in made.scores
    ]
    claimed = TASK.aggregate(answered(195).scores)
    return with_scores(made, bare, metrics=claimed)


def with_a_better_mean(made: ScoredEvaluation) -> ScoredEvaluation:
    return with_scores(made, made.scores, metrics=TASK.aggregate(answered(195).scores))


def of_fewer_items(made: ScoredEvaluation) -> ScoredEvaluation:
    return with_scores(made, made.scores, items=100)


def without_a_definition(made: ScoredEvaluation) -> ScoredEvaluation:
    known = {k: v for k, v in made.evaluation.definitions.items() if k != "invalid"}
    return with_scores(made, made.scores, definitions=known)


def numbered_from_nowhere(made: ScoredEvaluation) -> ScoredEvaluation:
    return with_scores(made, [s.model_copy(update={"repeat": 7}) for s in made.scores])


FORGERIES: dict[str, tuple[Callable[[ScoredEvaluation], ScoredEvaluation], str]] = {
    "a value above the range": (with_value(5.0), "yes/no metric"),
    "a value below the range": (with_value(-1.0), "yes/no metric"),
    "half right": (with_value(0.5), "yes/no metric"),
    "only the right answers": (only_the_right_ones, "69 have a response"),
    "more answers to what was wrong": (nine_more_for_the_wrong_ones, "the same number"),
    "more answers than the decoding says": (three_for_every_item, "says 1 responses per item"),
    "one answer twice": (twice, "twice"),
    "odd numbers of repeats": (numbered_from_nowhere, "not numbered from 0"),
    "other items": (of_other_items, "other items|not asked"),
    "another task": (of_another_task, "poll"),
    "two items at one place": (two_items_at_one_place, "index 0|not asked"),
    "no values": (without_values, "accuracy"),
    "a better mean": (with_a_better_mean, "accuracy is recorded as"),
    "fewer items than scores": (of_fewer_items, "100 items|items is 200"),
    "the direction turned round": (with_definition(higher_is_better=False), "higher_is_better"),
    "a wider range": (with_definition(high=100.0, kind="continuous"), "accuracy has"),
    "another kind": (with_definition(kind="continuous"), "accuracy has kind"),
    "an empty range": (with_definition(low=1.0), "is empty|accuracy has low"),
    "another headline": (
        with_definition("truncated", primary=True),
        "both called primary|has primary",
    ),
    "an invented metric": (with_definition("bonus"), "bonus is not a metric"),
    "a metric left out": (without_a_definition, "invalid is a metric"),
}
each_forgery = pytest.mark.parametrize(("change", "said"), FORGERIES.values(), ids=FORGERIES)


def matches(pattern: str, text: str) -> bool:
    return any(part in text for part in pattern.split("|"))


def append_unchecked(board: Board, scored: ScoredEvaluation, name: str) -> None:
    """What someone does who writes the files without this program, and knows the format."""
    packed = gzip.compress(jsonl_bytes(scored.scores), mtime=0)
    samples = hashlib.sha256(packed).hexdigest()
    write_bytes(board.folder / "samples" / f"{samples}.jsonl.gz", packed)
    entry = EvaluationEntry(name=name, evaluation=scored.evaluation, samples=samples)
    row = Row(run="r", entry=entry, previous=board.rows()[-1].digest, digest="")
    ledger.write_row(board.folder, row.model_copy(update={"digest": ledger.row_digest(row)}))


def saved(folder: Path, made: ScoredEvaluation) -> Path:
    evaluation.save(made, folder)
    return folder


@pytest.mark.slow
@each_forgery
def test_the_gate_passes_no_forged_candidate(
    tmp_path: Path,
    capsys: Capture,
    change: Callable[[ScoredEvaluation], ScoredEvaluation],
    said: str,
) -> None:
    before = saved(tmp_path / "before", answered(69))
    forged = saved(tmp_path / "after", change(answered(69)))
    code = run(["gate", str(before), str(forged)])
    out, err = capsys.readouterr()
    assert code in (2, 3)
    assert matches("items" if code == 2 else said, out + err)


@each_forgery
def test_nor_does_it_where_both_sides_are_forged_alike(
    tmp_path: Path,
    capsys: Capture,
    change: Callable[[ScoredEvaluation], ScoredEvaluation],
    said: str,
) -> None:
    before = saved(tmp_path / "before", change(answered(69)))
    forged = saved(tmp_path / "after", change(answered(9)))
    assert run(["gate", str(before), str(forged)]) in (1, 2, 3)


@each_forgery
def test_no_forgery_is_added_to_a_board(
    tmp_path: Path,
    capsys: Capture,
    change: Callable[[ScoredEvaluation], ScoredEvaluation],
    said: str,
) -> None:
    forged = saved(tmp_path / "forged", change(answered(69)))
    assert run(["board", "add", str(tmp_path / "board"), str(forged), "--name", "M"]) == 3
    err = capsys.readouterr().err
    assert matches(said, err)
    assert "Traceback" not in err
    assert Board(tmp_path / "board").rows() == []


@pytest.mark.slow
@each_forgery
def test_a_forged_row_with_a_right_chain_is_told_by_verify(
    tmp_path: Path,
    capsys: Capture,
    change: Callable[[ScoredEvaluation], ScoredEvaluation],
    said: str,
) -> None:
    board = Board(tmp_path / "board")
    board.add_evaluation(answered(69), "honest", "r")
    append_unchecked(board, change(answered(69)), "forged")
    assert run(["board", "verify", str(board.folder)]) == 3
    out = capsys.readouterr().out
    assert "line 2: " in out
    assert "is sound" not in out


@pytest.mark.parametrize("name", ["M\x1b[31m", "two\nlines", "left\u202eright", "m" * 2000])
def test_a_name_that_cannot_be_recorded_is_refused_in_a_sentence(
    name: str, tmp_path: Path, capsys: Capture
) -> None:
    evaluation.save(answered(100), tmp_path / "e")
    recorded = tmp_path / "r.jsonl"
    rows = [{"id": item.index, "response": "#### 1"} for item in TASK.items("sealed", None)]
    recorded.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for words in (
        ["board", "add", str(tmp_path / "board"), str(tmp_path / "e"), "--name", name],
        ["board", "add", str(tmp_path / "board"), str(tmp_path / "e"), "--run", name],
        ["score", TASK.name, str(recorded), "--split", "sealed", "--model-id", name],
    ):
        assert run(words) == 3
        said = capsys.readouterr().err
        assert "cannot be recorded" in said and "Choose another name" in said
        assert "unexpected" not in said
    assert not (tmp_path / "board").exists()


def test_an_honest_row_appended_by_hand_is_sound(tmp_path: Path, capsys: Capture) -> None:
    board = Board(tmp_path / "board")
    board.add_evaluation(answered(69), "honest", "r")
    append_unchecked(board, answered(80), "other")
    assert run(["board", "verify", str(board.folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert any("per-item scores" in what and "(2)" in what for what in found["recomputed"])
    assert any("whether the scores follow from responses" in w for w in found["not_recomputed"])


def test_what_a_task_that_is_not_installed_means_is_said_to_be_unknown(
    tmp_path: Path, capsys: Capture
) -> None:
    board = Board(tmp_path / "board")
    board.add_evaluation(answered(69), "honest", "r")
    known = answered(69).evaluation.definitions
    turned = known["accuracy"].model_copy(update={"higher_is_better": False})
    other = with_scores(
        answered(9),
        answered(9).scores,
        task_version="99",
        definitions=known | {"accuracy": turned},
    )
    append_unchecked(board, other, "forged")
    assert run(["board", "verify", str(board.folder)]) == 0
    out = capsys.readouterr().out
    assert "what the metrics of mini_gsm8k version 99 mean, which is not installed" in out
    assert run(["board", "render", str(board.folder)]) == 0
    assert "rank" not in capsys.readouterr().out


def test_a_baseline_name_that_stands_for_several_evaluations_is_told(
    tmp_path: Path, capsys: Capture
) -> None:
    board = Board(tmp_path / "board")
    after = saved(tmp_path / "after", answered(69))
    board.add_evaluation(answered(120), "M", "r")
    words = ["gate", str(board.folder), str(after), "--name", "M"]
    assert run(words) == 1
    assert "evaluations of" not in capsys.readouterr().err
    low = saved(tmp_path / "low", answered(30))
    assert run(["board", "add", str(board.folder), str(low), "--name", "M"]) == 0
    assert "M (run manual)" not in capsys.readouterr().err  # another run
    low = saved(tmp_path / "lower", answered(20))
    assert run(["board", "add", str(board.folder), str(low), "--name", "M"]) == 0
    assert "M (run manual) was evaluated 2 times on mini_gsm8k, gate" in capsys.readouterr().err
    assert run(words) == 0
    assert "3 evaluations of mini_gsm8k called M; the one added last" in capsys.readouterr().err


# ---- responses scored again -----------------------------------------------------------------


def test_scores_that_the_responses_do_not_give_are_told(tmp_path: Path, capsys: Capture) -> None:
    made = answered(69)
    folder = saved(tmp_path / "evaluations" / "m0", made)
    better = [
        s.model_copy(update={"values": s.values | {"accuracy": 1.0}}) for s in made.scores[:150]
    ] + made.scores[150:]
    forged = with_scores(made, better, samples_digest=made.evaluation.samples_digest)
    board = Board(tmp_path / "board")
    board.add_evaluation(made, "honest", "r")
    append_unchecked(board, forged, "forged")
    words = ["board", "verify", str(board.folder)]
    assert run(words) == 0  # the numbers alone agree
    capsys.readouterr()
    assert run([*words, "--rescore", "--evaluations", str(folder.parent)]) == 3
    out = capsys.readouterr().out
    assert "forged on mini_gsm8k, gate" in out
    assert "81 of 200 responses have other values: accuracy of item 69" in out
    assert "honest on" not in out
    assert "the scores of 1 evaluations from their responses" in out


def test_what_cannot_be_scored_again_is_skipped_with_the_reason(
    tmp_path: Path, capsys: Capture
) -> None:
    board = Board(tmp_path / "board")
    board.add_evaluation(answered(69), "M", "r")
    words = ["board", "verify", str(board.folder), "--rescore"]
    assert run(words) == 0
    assert "its responses are not at hand" in capsys.readouterr().out
    assert run([*words[:3], "--evaluations", str(tmp_path)]) == 3
    assert "--evaluations goes with --rescore" in capsys.readouterr().err
    assert run([*words, "--evaluations", str(tmp_path / "none")]) == 3
    assert "There is no folder" in capsys.readouterr().err


# ---- tables next to the ledger --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("board.md", "markdown"),
        ("board.csv", "csv"),
        ("board.tex", "latex"),
        ("board.html", "html"),
    ],
)
def test_a_table_that_the_rows_do_not_give_is_told(
    tmp_path: Path, capsys: Capture, name: str, format_: str
) -> None:
    board = Board(tmp_path / "board")
    board.add_evaluation(answered(69), "M0", "r")
    assert run(["board", "render", str(board.folder), "--format", format_]) == 0
    text = capsys.readouterr().out
    path = board.folder / name
    path.write_text(text)
    assert run(["board", "verify", str(board.folder)]) == 0
    assert f"Recomputed: {name}." in capsys.readouterr().out
    path.write_text(text.replace("M0", "M1"))
    assert run(["board", "verify", str(board.folder)]) == 3
    out = capsys.readouterr().out
    assert f"{name} is not what the rows give: line" in out and "M1" in out
    path.write_text(text)
    board.add_evaluation(answered(80), "M2", "r")
    assert run(["board", "verify", str(board.folder)]) == 0
    assert f"{name} was rendered before the last row was added" in capsys.readouterr().out


def test_other_files_on_a_board_are_said_not_to_be_looked_at(
    tmp_path: Path, capsys: Capture
) -> None:
    board = Board(tmp_path / "board")
    board.add_evaluation(answered(69), "M0", "r")
    (board.folder / "board.svg").write_text("<svg/>")
    assert run(["board", "verify", str(board.folder)]) == 0
    assert (
        "Not recomputed: files that are not part of a board: board.svg" in capsys.readouterr().out
    )


# ---- decoding -------------------------------------------------------------------------------

SHORT = {"max_tokens": 6, "n": 1, "stop": [], "temperature": 0.0, "top_p": 1.0}
POLICY = "rules:\n  - {task: mini_gsm8k, metric: accuracy, tier: critical, margin: 0.1}\n"


def test_other_decoding_is_refused_unless_the_policy_allows_it(
    tmp_path: Path, capsys: Capture
) -> None:
    before = saved(tmp_path / "before", answered(9, decoding=SHORT))
    after = saved(tmp_path / "after", answered(69, engine="vllm"))
    words = ["gate", str(before), str(after)]
    assert run(words) == 3
    err = capsys.readouterr().err
    assert "decoding.max_tokens is 6 for the baseline and 80 for the candidate" in err
    assert "allow_different: [decoding.max_tokens]" in err
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"allow_different: [decoding.max_tokens]\n{POLICY}")
    assert run([*words, "--policy", str(policy)]) == 0
    out = capsys.readouterr().out
    assert "Note, mini\\_gsm8k: decoding.max" in out.replace("mini_gsm8k", "mini\\_gsm8k")
    assert "engine is 'hf' for the baseline and 'vllm' for the candidate" in out
    policy.write_text(f"allow_different: [decoding.temperature]\n{POLICY}")
    assert run([*words, "--policy", str(policy)]) == 3
    policy.write_text(f"allow_different: [judge]\n{POLICY}")
    assert run([*words, "--policy", str(policy)]) == 3
    assert "allow_different" in capsys.readouterr().err


# ---- files that are not files ---------------------------------------------------------------


def test_settings_of_any_size_and_name_end_in_a_sentence_of_bounded_length(
    tmp_path: Path, capsys: Capture
) -> None:
    strange = {f"k{i}\n::error::{i}": ["x" * 1000] * 100 for i in range(100)}
    before = saved(tmp_path / "before", answered(69, decoding=SHORT))
    after = saved(tmp_path / "after", answered(69, decoding=SHORT | strange))
    assert run(["gate", str(before), str(after)]) == 3
    err = capsys.readouterr().err
    assert "decoding.k0 ::error::0 is 'not given' for the baseline" in err
    assert "and 90 settings more" in err
    assert len(err) < 10_000 and err.count("\n") == 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "part", ["items.jsonl", "samples.jsonl", "scores.jsonl", "evaluation.json"]
)
def test_a_device_or_a_pipe_in_an_evaluation_is_not_read(
    tmp_path: Path, capsys: Capture, part: str
) -> None:
    import os

    folder = saved(tmp_path / "m0", answered(69))
    (folder / part).unlink()
    (folder / part).symlink_to("/dev/zero")
    assert run(["gate", str(folder), str(folder)]) == 3
    assert "not a regular file" in capsys.readouterr().err
    (folder / part).unlink()
    os.mkfifo(folder / part)
    assert run(["board", "add", str(tmp_path / "board"), str(folder)]) == 3
    assert "not a regular file" in capsys.readouterr().err


def test_a_link_to_a_file_in_an_evaluation_is_followed(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m0", answered(69))
    (folder / "scores.jsonl").rename(tmp_path / "elsewhere.jsonl")
    (folder / "scores.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    assert run(["gate", str(folder), str(folder)]) == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("part", ["ledger.jsonl", "HEAD", "samples", "board.md"])
@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_a_device_or_a_pipe_on_a_board_is_not_read(
    tmp_path: Path, capsys: Capture, part: str, kind: str
) -> None:
    import os

    board = Board(tmp_path / "board")
    board.add_evaluation(answered(69), "M0", "r")
    (board.folder / "board.md").write_text("")
    path = board.folder / part
    path = next(path.iterdir()) if path.is_dir() else path
    path.unlink()
    path.symlink_to("/dev/urandom") if kind == "device" else os.mkfifo(path)
    assert run(["board", "verify", str(board.folder)]) == 3
    out, err = capsys.readouterr()
    assert "not a regular file" in out + err


def test_a_lock_that_is_a_link_does_not_empty_what_it_points_to(
    tmp_path: Path, capsys: Capture
) -> None:
    board = Board(tmp_path / "board")
    board.add_evaluation(answered(69), "M0", "r")
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (board.folder / ".lock").unlink(missing_ok=True)
    (board.folder / ".lock").symlink_to(precious)
    assert run(["board", "verify", str(board.folder)]) == 3
    err = capsys.readouterr().err
    assert "Traceback" not in err and "unexpected" not in err
    assert precious.read_text() == "kept"
