"""What cannot be evaluated of lm-eval, or cannot be gated, is said in words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import local_tasks

from harness.board import Board
from harness.core.errors import UserError
from harness.core.schema import Policy, Rule
from harness.engines import Completion, Engine, Sampling
from harness.evals import evaluation
from harness.evals.evaluate import EvalOptions, evaluate
from harness.evals.stock_tasks import find_benchmarks
from harness.render import plot
from rlrf import gating

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 6}}
{more}
"""
MEAN = "metric_list: [{{metric: {name}, aggregation: mean, higher_is_better: true}}]"


class Parrot(Engine):
    """An engine that answers every prompt with "blue", except some that it leaves unanswered."""

    name, model_id, model_digest, tokenizer = "parrot", "parrot", "p" * 64, None

    def __init__(self, silent: Sequence[str] = (), fails_after: float = math.inf) -> None:
        self.asked: list[str] = []
        self._silent = silent
        self._fails_after = fails_after

    def render(self, messages: Any) -> str:
        return "".join(message.content for message in messages)

    def generate(self, prompts: Any, sampling: Sampling, on_done: Any = None) -> Any:
        self.asked += prompts
        return [[self._answer(prompt)] * sampling.n for prompt in prompts]

    def _answer(self, prompt: str) -> Completion:
        if any(word in prompt for word in self._silent):
            return Completion.missing("the filter stopped it")
        return Completion("blue", "stop", 9, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return local_tasks.make(tmp_path / "tasks")


def write(folder: Path, name: str, more: str = "", text: str = TASK) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text.format(name=name, data=folder / "few.jsonl", more=more))
    return path


def refusal(folder: Path, name: str, options: EvalOptions | None = None) -> str:
    engine = Parrot()
    with pytest.raises(UserError) as refused:
        evaluate(engine, find_benchmarks([name], [folder]), options)
    assert not engine.asked
    return str(refused.value)


def test_an_unknown_name_names_the_nearest_of_all(folder: Path) -> None:
    assert "Did you mean 'colours_many'?" in refusal(folder, "colours_meny")
    assert "Did you mean 'arc_easy'?" in refusal(folder, "arc_easyy")
    assert "Did you mean 'mini_gsm8k'?" in refusal(folder, "mini_gsm8")


def test_a_broken_yaml_is_named_with_its_fault(folder: Path) -> None:
    (folder / "torn.yaml").write_text("task: torn\nmetric_list: [{metric: acc\n")
    told = refusal(folder, "torn")
    assert "torn.yaml" in told
    assert "line 3" in told


def test_a_function_that_cannot_be_imported_is_told(folder: Path) -> None:
    (folder / "shaky.py").write_text("raise RuntimeError('no compass')\n")
    write(folder, "shaky", "process_docs: !function shaky.prepare")
    assert "RuntimeError: no compass" in refusal(folder, "shaky")
    write(folder, "absent", "process_docs: !function nowhere_at_all.prepare")
    assert "nowhere_at_all" in refusal(folder, "absent")


def test_a_missing_package_is_named_with_lm_evals_extra(folder: Path) -> None:
    (folder / "needy.py").write_text("import wonderwords_\nimport immutabledict\n")
    write(folder, "needy", "process_docs: !function needy.prepare")
    assert "pip install wonderwords_" in refusal(folder, "needy")
    (folder / "needed.py").write_text("raise ModuleNotFoundError('x', name='langdetect')\n")
    write(folder, "needed", "process_docs: !function needed.prepare")
    assert "pip install 'lm-eval[ifeval]'" in refusal(folder, "needed")


def test_data_that_cannot_be_had_says_what_to_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "gone")
    (folder / "few.jsonl").unlink()
    told = refusal(folder, "gone")
    assert "HF_HOME" in told
    assert "data_files" in told
    hub = "task: far\ndataset_path: some-org/some-set-{name}\ntest_split: test\ndoc_to_text: x\n"
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    write(folder, "far", text=hub)
    assert "HF_HOME" in refusal(folder, "far")


def test_code_that_a_model_writes_runs_only_if_that_is_confirmed(folder: Path) -> None:
    write(folder, "risky", "unsafe_code: true\n" + MEAN.format(name="exact_match"))
    assert "--confirm-run-unsafe-code" in refusal(folder, "risky")
    allowed = EvalOptions(confirm_run_unsafe_code=True)
    scored = evaluate(Parrot(), find_benchmarks(["risky"], [folder]), allowed)["risky"]
    assert scored.evaluation.items == 8


def test_a_group_whose_metric_no_task_has_is_refused(folder: Path) -> None:
    text = "group: odd\ntask: [cloze, prose]\naggregate_metric_list: [{{metric: f1}}]\n"
    write(folder, "odd", text=text)
    told = refusal(folder, "odd")
    assert "scored by f1, which none of its tasks measures" in told
    assert "cloze, prose" in told


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        (
            "[cloze, colours_fwe]",
            "names colours_fwe, of which there is no .* Did you mean 'colours_few'",
        ),
        ("[group, cloze]", "contains itself"),
        ("[]", "has no tasks"),
    ],
)
def test_a_group_of_tasks_that_cannot_be_had_is_explained(
    folder: Path, tasks: str, told: str
) -> None:
    write(folder, "group", text="group: {name}\ntask: " + tasks)
    assert re.search(told, refusal(folder, "group"))


def test_a_task_without_documents_is_refused(folder: Path) -> None:
    (folder / "few.jsonl").write_text("")
    write(folder, "empty", MEAN.format(name="exact_match"))
    assert "empty" in (said := refusal(folder, "empty")) and "has no documents" in said


@pytest.mark.parametrize("name", ["a/b", "../outside", "/tmp/outside", "..", "n" * 201])
def test_a_task_is_refused_if_its_name_cannot_be_that_of_a_folder(
    folder: Path, tmp_path: Path, name: str
) -> None:
    text = TASK.replace("task: {name}", f"task: {name}")
    write(folder, "file", MEAN.format(name="exact_match"), text=text)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="cannot be kept in a folder of that name"):
        evaluate(Parrot(), [name], EvalOptions(include_path=[folder]), out=tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_options_that_a_task_cannot_take_are_refused(folder: Path) -> None:
    assert "Leave out the split" in refusal(folder, "name_it", EvalOptions(split="test"))
    assert "Leave out the data" in refusal(folder, "name_it", EvalOptions(data=folder))
    assert "fewshot_as_multiturn needs apply_chat_template" in refusal(
        folder, "name_it", EvalOptions(fewshot_as_multiturn=True)
    )
    assert "decoded greedily" in refusal(folder, "name_it", EvalOptions(repeats=3))
    assert "none with index 99" in refusal(
        folder, "name_it", EvalOptions(indices={"name_it": [99]})
    )
    assert "lower --num-fewshot" in refusal(folder, "name_it", EvalOptions(num_fewshot=50))


def test_names_that_are_given_twice_are_evaluated_once(folder: Path) -> None:
    named = ["name_it", "name_it", "colours_tag", "colours_few"]
    assert [task.name for task in find_benchmarks(named, [folder])] == [
        *("name_it", "colours_few", "colours_many", "colours_some"),
    ]


def test_what_a_server_leaves_unanswered_is_unscored(folder: Path) -> None:
    engine = Parrot(silent=["saddle", "kite"])
    scored = evaluate(engine, find_benchmarks(["name_it"], [folder]))["name_it"]
    missing = [score for score in scored.scores if score.unscored]
    assert missing
    assert all(not score.values for score in missing)
    assert set(missing[0].unscored.values()) == {"no response: the filter stopped it"}
    result = scored.evaluation.metrics["exact_match"]
    assert (result.n, result.unscored) == (17 - len(missing), len(missing))


def test_a_failure_to_score_keeps_the_responses(folder: Path, tmp_path: Path) -> None:
    code = folder / "judge_it.py"
    code.write_text("def score(doc, results):\n    raise ValueError('no scale')\n")
    more = "process_results: !function judge_it.score\n" + MEAN.format(name="weight")
    write(folder, "weigh", more)
    engine = Parrot()
    with pytest.raises(UserError, match=r"failed to score .* weigh: ValueError: no scale"):
        evaluate(engine, find_benchmarks(["weigh"], [folder]), out=tmp_path / "out")
    code.write_text("def score(doc, results):\n    raise SystemExit('enough')\n")
    with pytest.raises(UserError, match=r"ends the program by sys\.exit"):
        evaluate(engine, find_benchmarks(["weigh"], [folder]), out=tmp_path / "out")
    assert len(engine.asked) == 8
    code.write_text("def score(doc, results):\n    return {'weight': len(results[0])}\n")
    scored = evaluate(engine, find_benchmarks(["weigh"], [folder]), out=tmp_path / "out")["weigh"]
    assert len(engine.asked) == 8
    assert scored.evaluation.metrics["weight"].mean == 4
    assert evaluate(engine, find_benchmarks(["weigh"], [folder]), out=tmp_path / "out")[
        "weigh"
    ] == (scored)


class Stopping:
    """The engine's likelihoods, which stop for good after some calls."""

    def __init__(self, engine: Any, calls: float) -> None:
        self._ask, self._left, self.asked = engine.loglikelihood, calls, 0

    def __call__(self, pairs: Any) -> Any:
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1
        self.asked += len(pairs)
        return self._ask(pairs)


def test_likelihoods_are_kept_as_they_come(
    engine: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.evals.lm.PAIRS_PER_PART", 50)
    (task,) = find_benchmarks(["colours_many"], [folder])
    whole = evaluate(engine, [task])["colours_many"]
    first = Stopping(engine, 2)
    monkeypatch.setattr(type(engine), "loglikelihood", lambda _, pairs: first(pairs))
    with pytest.raises(KeyboardInterrupt):
        evaluate(engine, [task], out=tmp_path / "out")
    second = Stopping(engine, math.inf)
    second._ask = first._ask
    monkeypatch.setattr(type(engine), "loglikelihood", lambda _, pairs: second(pairs))
    resumed = evaluate(engine, [task], out=tmp_path / "out")["colours_many"]
    assert (first.asked, second.asked) == (100, 20)
    assert resumed.evaluation == whole.evaluation
    assert resumed.scores == whole.scores


def gate(folder: Path, metric: str, task: str) -> str:
    rule = Rule(task=task, metric=metric, margin=0.1)
    with pytest.raises(UserError) as refused:
        gating.gate(folder, folder, Policy(rules=[rule]))
    return str(refused.value)


def _on_a_board(folder: Path, place: Path) -> Sequence[Any]:
    board = Board(place)
    for scored in evaluation.load(folder).values():
        board.add_evaluation(scored, "M1", "by hand")
    assert board.verify() == []
    return board.rows()


def test_the_gate_refuses_what_is_not_a_mean_over_items(
    engine: Any, folder: Path, tmp_path: Path
) -> None:
    names = ["cloze", "prose", "evenly", "by_size"]
    evaluate(engine, find_benchmarks(names, [folder]), out=tmp_path / "out")
    for metric, task in (
        *(("perplexity", "cloze"), ("bits_per_byte", "prose")),
        *(("acc", "evenly"), ("acc_norm", "by_size")),
    ):
        told = gate(tmp_path / "out", metric, task)
        assert f"'{metric}' of {task} is not a mean over items" in told
        assert "cannot be gated" in told
    with pytest.raises(UserError, match="no metric is a mean over items"):
        gating.gate(tmp_path / "out" / "prose", tmp_path / "out" / "prose")
    decision = gating.gate(tmp_path / "out", tmp_path / "out")
    assert [(check.task, check.metric) for check in decision.checks] == [
        ("by_size", "acc"),
        ("cloze", "acc"),
    ]
    with pytest.raises(UserError, match="no evaluation on the test split to draw"):
        plot.board(_on_a_board(tmp_path / "out" / "prose", tmp_path / "prose_only"), "test")
    assert b"<svg" in plot.board(_on_a_board(tmp_path / "out", tmp_path / "board"), "test")
    shown = json.loads((tmp_path / "out" / "evenly" / "evaluation.json").read_text())
    assert shown["definitions"] == {}
    assert 0 < shown["metrics"]["acc"]["mean"] < 1
