"""Guards in a run: measured and gated, and never trained on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import local_tasks, toy
from test_loop import config, contents

import tasks
from harness.board import Board
from harness.core.errors import UserError
from harness.core.schema import Policy, Rule
from harness.evals import evaluation
from harness.evals.stock_runs import StockRun
from harness.judges.config import Judging
from rlrf.cli import run as run_command
from rlrf.config import Config, load
from rlrf.context import choose_gate_policy, open_services
from rlrf.guards import OpenGuard, guarded_policy, open_guards
from rlrf.loop import train
from rlrf.report import report
from rlrf.result import RunResult, markdown
from rlrf.status import markdown as told
from rlrf.status import status
from rlrf.training_examples import find_leak

pytestmark = pytest.mark.usefixtures("toy_letters")
HARMLESS = {"learning_rate": 1e-12, "batch_size": 8, "max_length": 200}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with tasks for lm-eval in YAML, over files that lie next to them."""
    return local_tasks.make(tmp_path / "local")


def guard(task: str, folder: Path, **settings: Any) -> dict[str, Any]:
    return {"task": task, "include_path": str(folder), **settings}


def guarded(model: Path | str, *guards: dict[str, Any], **changes: Any) -> Config:
    return config(Path(model), guards=list(guards), **changes)


def opened(*guards: dict[str, Any], **changes: Any) -> dict[str, OpenGuard]:
    with open_services(guarded("m", *guards, **changes), feedback=False) as services:
        return services.guards


def policy_of(*guards: dict[str, Any], **changes: Any) -> Policy:
    settings = guarded("m", *guards, **changes)
    with open_services(settings, feedback=False) as services:
        return choose_gate_policy(settings, services.tasks, services.guards)


def indices(path: Path) -> list[int]:
    (scored,) = evaluation.load(path).values()
    return [item.index for item in scored.items]


@pytest.fixture
def run(tiny_model: Path, folder: Path, tmp_path: Path) -> tuple[RunResult, Path]:
    """A run of one iteration with a guard of likelihoods and one of generated answers."""
    guards = guard("colours_many", folder, margin=0.2), guard("name_it", folder, items=5)
    out = tmp_path / "run"
    return train(guarded(tiny_model, *guards), out), out


def test_guards_are_measured_for_every_model_on_the_same_items_and_decide(
    run: tuple[RunResult, Path],
) -> None:
    result, out = run
    before, after = (evaluation.load(out / f"iter_1/guards_{name}") for name in ("M0", "M1"))
    assert before.keys() == after.keys() == {"colours_many", "name_it"}
    for task in before:
        assert [i.digest for i in before[task].items] == [i.digest for i in after[task].items]
    assert len(before["name_it"].items) == 5 and len(before["colours_many"].items) == 20
    gate = result.iterations[0].gate
    assert gate is not None
    checks = {(c.task, c.metric): c for c in gate.vs_incumbent.checks}
    assert checks["colours_many", "acc"].tier == "guardrail"
    assert checks["colours_many", "acc"].margin == 0.2
    assert checks["name_it", "exact_match,first-letters"].margin == 0.05
    assert set(gate.guards()) == {"colours_many acc", "name_it exact_match,first-letters"}


def test_at_the_end_guards_are_measured_on_items_that_no_decision_used(
    run: tuple[RunResult, Path],
) -> None:
    result, out = run
    for task in ("colours_many", "name_it"):
        decided = {*indices(out / "iter_1/guards_M1" / task)}
        sealed = {*indices(out / "sealed/guards_M1" / task)}
        assert sealed and not decided & sealed
    assert "colours_many acc" in result.sealed[1].metrics
    assert result.shown == ["toy_letters letters"]


def test_guards_are_on_the_ledger_in_the_status_the_tables_and_the_report(
    run: tuple[RunResult, Path],
) -> None:
    result, out = run
    board = Board(out / "board")
    assert board.verify() == []
    measured = [r.entry.evaluation.task for r in board.rows() if r.entry.kind == "evaluation"]
    assert measured.count("colours_many") == measured.count("name_it") == 4
    assert "guards: colours_many acc" in told(status(out))
    (row,) = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert "colours_many acc" in row["gate"] and "colours_many acc" in row["guards"]
    table = markdown(result)
    assert "Guards, never trained on" in table and "| colours_many acc" in table
    assert "colours_many acc" in report(out)


@pytest.mark.parametrize("place", ["score", "answer"])
def test_a_run_killed_in_a_guard_ends_with_the_same_bytes(
    run: tuple[RunResult, Path],
    tiny_model: Path,
    folder: Path,
    tmp_path: Path,
    place: str,
) -> None:
    guards = guard("colours_many", folder, margin=0.2), guard("name_it", folder, items=5)
    settings = guarded(tiny_model, *guards)

    again = tmp_path / "again"
    with pytest.MonkeyPatch.context() as patch:
        real = getattr(StockRun, place)
        calls = []

        def second_is_killed(self: StockRun) -> Any:
            if self.generation.model.digest is not None:
                calls.append(self.task.name)
                if len(calls) == 2:
                    raise KeyboardInterrupt
            return real(self)

        patch.setattr(StockRun, place, second_is_killed)
        with pytest.raises(KeyboardInterrupt):
            train(settings, again)
    train(settings, again)
    assert contents(again) == contents(run[1])


def test_data_that_vanishes_is_told_and_the_run_resumes_when_it_is_back(
    tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    settings = guarded(tiny_model, guard("colours_many", folder), train=HARMLESS, iterations=2)
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        real, calls = StockRun.answer, []

        def killed_in_the_second_iteration(self: StockRun) -> None:
            calls.append(self)
            if len(calls) > 2:
                raise KeyboardInterrupt
            real(self)

        patch.setattr(StockRun, "answer", killed_in_the_second_iteration)
        with pytest.raises(KeyboardInterrupt):
            train(settings, out)
    shutil.move(folder, tmp_path / "away")
    with pytest.raises(UserError, match=r"include path .*local"):
        train(settings, out)
    shutil.move(tmp_path / "away", folder)
    (folder / "many.jsonl").rename(folder / "moved.jsonl")
    with pytest.raises(UserError, match=r"guard colours_many cannot be used.*cannot be had here"):
        train(settings, out)
    (folder / "moved.jsonl").rename(folder / "many.jsonl")
    assert len(train(settings, out).iterations) == 2


def test_changed_data_is_another_run(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    settings = guarded(tiny_model, guard("colours_few", folder), train=HARMLESS)
    train(settings, tmp_path / "run")
    lines = (folder / "few.jsonl").read_text().splitlines()
    (folder / "few.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(UserError, match="another set of guards"):
        train(settings, tmp_path / "run")


def test_a_guard_asks_other_items_in_each_iteration_unless_it_is_told_not_to(
    tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    guards = (
        guard("colours_many", folder, items=8),
        guard("colours_some", folder, items=4, rotate=False),
    )
    answered = []
    with pytest.MonkeyPatch.context() as patch:
        real = StockRun.answer

        def counted(self: StockRun) -> None:
            answered.append((self.task.name, self._lm.engine.model_id))
            real(self)

        patch.setattr(StockRun, "answer", counted)
        out = tmp_path / "run"
        train(guarded(tiny_model, *guards, iterations=2, train=HARMLESS), out)
    first, second = (out / f"iter_{k}/guards_M0" for k in (1, 2))
    assert not {*indices(first / "colours_many")} & {*indices(second / "colours_many")}
    assert indices(first / "colours_some") == indices(second / "colours_some")
    # M0, M1 and M2 of each guard, M0 again where its items rotate, and three models at the end.
    assert len([name for name, _ in answered if name == "colours_many"]) == 4 + 3
    assert len([name for name, _ in answered if name == "colours_some"]) == 3 + 3


def test_training_examples_that_repeat_a_guards_item_block_the_iteration(
    tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (folder / "few.jsonl").read_text().splitlines()]
    rows[3]["question"] = "what is 3 plus 4?"
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    everything = [{"name": "toy_letters", "prompts": 40}]
    result = train(
        guarded(tiny_model, guard("colours_few", folder), tasks=everything), tmp_path / "run"
    )
    (iteration,) = result.iterations
    assert iteration.outcome == "stopped"
    assert iteration.stopped == (
        "training texts repeat 1 of the held-out items: colours_few lm-eval 3"
    )


def test_a_guards_item_is_held_out_as_a_question_and_as_what_a_model_reads(folder: Path) -> None:
    (one,) = opened(guard("colours_few", folder)).values()
    texts = {item.prompt for item in one.held_out if item.index == 2}
    question = next(text for text in texts if "Answer:" not in text)
    assert texts == {question, f"{question}\nAnswer:"}
    for text in texts:
        assert find_leak([text], one.held_out, 50) == (
            "training texts repeat 1 of the held-out items: colours_few lm-eval 2"
        )


def test_equal_questions_are_in_one_part_and_asked_once(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "many.jsonl").read_text().splitlines()]
    twice = [*rows, *rows[:10]]
    (folder / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in twice))
    (one,) = opened(guard("colours_many", folder)).values()
    questions = {part: {item.prompt for item in pool} for part, pool in one.pools.items()}
    assert not questions["gate"] & questions["sealed"]
    assert sum(map(len, one.pools.values())) == 40
    (other,) = opened(guard("colours_many", folder), seed=1).values()
    assert other.pools["gate"] != one.pools["gate"]


def test_a_limit_takes_the_first_documents_of_each_task(folder: Path) -> None:
    (one,) = opened(guard("by_size", folder, limit=3)).values()
    tasks = sorted(item.tags["task"][0] for pool in one.pools.values() for item in pool)
    assert tasks == [
        name for name in ("colours_few", "colours_many", "colours_some") for _ in "123"
    ]


def test_a_benchmark_of_ours_guards_with_its_own_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    spare = dataclasses.replace(toy.LETTERS, name="spare")
    monkeypatch.setattr(tasks, "_all", lambda: {"toy_letters": toy.LETTERS, "spare": spare})
    (one,) = opened({"task": "spare", "limit": 15}).values()
    for part in ("gate", "sealed"):
        assert one.pools[part] == spare.items(part)[:15]
    assert policy_of({"task": "spare", "tier": "critical"}).rules[1] == Rule(
        task="spare", metric="letters", tier="critical", margin=0.05, guard=True
    )
    with pytest.raises(UserError, match="guard spare has no metric 'wrong'"):
        policy_of({"task": "spare", "metric": "wrong"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "colours_mny"}, "Did you mean 'colours_many'"),
        ({"task": "prose"}, "no metric .*bits_per_byte.* no value per item"),
        ({"task": "evenly"}, "counts every document alike. Name its tasks as guards"),
        ({"task": "unscored"}, "colours_few, cloze.* name the tasks themselves"),
        ({"task": "colours_tag"}, "3 tasks .*name the tasks themselves"),
        ({"task": "colours_many", "metric": "accc"}, "Did you mean 'acc'"),
        ({"task": "cloze", "metric": "perplexity"}, "does not average over the items"),
        ({"task": "colours_many", "margin": 1.0}, "runs from 0 to 1: nothing could fail"),
        ({"task": "colours_many", "data": "x"}, "whose YAML names its data"),
        ({"task": "colours_shown", "num_fewshot": 99}, "cannot make the prompts"),
    ],
)
def test_a_guard_that_cannot_be_gated_is_refused_before_anything_runs(
    folder: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        policy_of(guard(folder=folder, **settings))


def test_a_guard_that_runs_code_is_refused(folder: Path) -> None:
    path = folder / "name_it.yaml"
    path.write_text(path.read_text() + "unsafe_code: true\n")
    with pytest.raises(UserError, match="runs code that the model writes, which a run does not do"):
        opened(guard("name_it", folder))


def test_a_chat_template_that_the_model_lacks_is_refused(
    tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    plain = shutil.copytree(tiny_model, tmp_path / "plain")
    for file in ("tokenizer_config.json", "chat_template.jinja"):
        if (plain / file).exists():
            text = (plain / file).read_text()
            settings = json.loads(text) if file.endswith(".json") else {}
            settings.pop("chat_template", None)
            (plain / file).unlink()
            if settings:
                (plain / file).write_text(json.dumps(settings))
    chat = guarded(plain, guard("colours_few", folder, apply_chat_template=True))
    with pytest.raises(UserError, match=r"colours_few has apply_chat_template: true.*leave it out"):
        train(chat, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_guard_without_two_items_is_refused(folder: Path) -> None:
    (folder / "few.jsonl").write_text((folder / "few.jsonl").read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match="1 different item, and at least 2 are needed"):
        opened(guard("colours_few", folder))


@pytest.mark.parametrize(
    ("guards", "message"),
    [
        ("[{task: toy_letters}]", "toy_letters is in tasks and in guards"),
        ("[{task: a, items: 3}, {task: a, metric: b}]", "differ in more than metric"),
        ("[{task: a}, {task: a, margin: 0.1}]", "guarded twice by its primary metric"),
        ("[{task: ruled, margin: 0.1}]", "gate.policy has rules for ruled, and its guard gives"),
        ("[{task: a, itms: 3}]", "items"),
    ],
)
def test_guards_that_contradict_the_configuration_are_refused(
    tmp_path: Path, guards: str, message: str
) -> None:
    rules = "{task: toy_letters, metric: letters, margin: 0.1}"
    if "ruled" in guards:
        rules += ", {task: ruled, metric: acc, margin: 0.1}"
    path = tmp_path / "config.yaml"
    path.write_text(
        f"model: m\ntasks: [{{name: toy_letters}}]\nguards: {guards}\n"
        f"gate: {{policy: {{rules: [{rules}]}}}}\n"
    )
    with pytest.raises(UserError, match=message):
        load(path)


def test_two_guards_of_one_task_are_two_rules_and_one_evaluation(folder: Path) -> None:
    both = guard("by_size", folder), guard("colours_many", folder, metric="acc_norm", margin=0.1)
    rules = policy_of(*both, guard("colours_many", folder, metric="acc")).rules
    assert [(r.task, r.metric, r.margin, r.guard) for r in rules[1:]] == [
        ("by_size", "acc", 0.05, True),
        ("colours_many", "acc_norm", 0.1, True),
        ("colours_many", "acc", 0.05, True),
    ]
    with pytest.raises(UserError, match="guarded twice by acc"):
        policy_of(guard("colours_many", folder), guard("colours_many", folder, metric="acc"))


def test_rules_of_the_policy_on_a_guard_replace_its_own_and_clusters_stay_theirs(
    folder: Path,
) -> None:
    guards = guard("by_size", folder), guard("colours_many", folder)
    rules = [
        Rule(task="toy_letters", metric="letters", margin=0.1),
        Rule(task="by_size", metric="acc", margin=0.2, cluster="task"),
    ]
    policy = guarded_policy(
        Policy(rules=rules, cluster="passage"), guarded("m", *guards), opened(*guards)
    )
    assert [(rule.task, policy.cluster_of(rule), rule.guard) for rule in policy.rules] == [
        ("toy_letters", "passage", False),
        ("by_size", "task", True),
        ("colours_many", None, True),
    ]


def test_a_run_without_guards_is_identified_as_before(tiny_model: Path) -> None:
    plain = config(tiny_model)
    assert "guards" not in plain.model_dump(mode="json")
    assert plain.identity == guarded(tiny_model).identity
    some = guarded(tiny_model, {"task": "a", "data": "x", "include_path": "y"})
    moved = guarded(tiny_model, {"task": "a"})
    assert some.identity == moved.identity != plain.identity
    assert "guard" not in Rule(task="a", metric="b", margin=0.1).model_dump(mode="json")
    assert open_guards(plain, Judging()) == {}


def test_plan_reads_a_runs_configuration_and_says_what_its_guards_see(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    settings = guarded("m", guard("colours_many", folder, items=15)).model_dump(mode="json")
    path.write_text(json.dumps(settings))
    assert run_command(["plan", str(path), "--discordance", "0.2", "--sd", "0.3"]) == 0
    told = capsys.readouterr()
    assert "colours_many acc" in told.out and "toy_letters letters" in told.out
    assert "guard colours_many: acc (guardrail, margin 0.05); 15 of 20 gate items" in told.err
    assert "if 20% of the answers change by chance" in told.err
