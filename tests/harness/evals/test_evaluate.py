"""Evaluations: lm-eval asks, plugins score, and stock lm-eval comes to the same numbers."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.build import build_evaluation
from helpers.random_llama import make_tokenizer

import tasks
from harness.core.errors import UserError
from harness.core.schema import Call, Item, JudgeRef, ModelRef, Reply, Sample, Score
from harness.core.scored import ScoredEvaluation
from harness.engines import Engine
from harness.evals import evaluation
from harness.evals.evaluate import EvalOptions, evaluate
from harness.evals.scoring import Generation, assemble
from tasks.task import Judge, Task

MINI = ["mini_gsm8k", "mini_factscore", "mini_just_eval"]


@pytest.fixture
def gsm8k_folder(tmp_path: Path) -> Path:
    """A data folder with a few problems of this test's own."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in (("train", 20), ("test", 6)):
        rows = [
            {"question": f"What is {n} plus 7?", "answer": f"{n}+7={n + 7}\n#### {n + 7}"}
            for n in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_mini_benchmarks_become_evaluation_folders(engine: Any, tmp_path: Path) -> None:
    found = evaluate(engine, MINI, EvalOptions(limit=5, seed=3), out=tmp_path / "out")
    assert list(found) == MINI
    for name, scored in found.items():
        task, summary = tasks.load(name), scored.evaluation
        items = task.items("gate")[:5]
        assert [s.item for s in scored.samples] == [item.digest for item in items]
        assert [s.index for s in scored.scores] == [0, 1, 2, 3, 4]
        assert summary.split == "gate" and summary.items == 5 and summary.seed == 3
        assert summary.model == ModelRef(id=engine.model_id, digest=engine.model_digest)
        assert summary.decoding["max_tokens"] == task.generation["max_tokens"]
        assert summary.metrics == task.aggregate(scored.scores)
        assert set(summary.definitions) == {metric.name for metric in task.metrics}
        assert summary.judge is None and summary.estimator == task.estimator
        for item, sample in zip(items, scored.samples, strict=True):
            assert sample.prompt == f"<|user|>{item.prompt}<|end|><|assistant|>"
            assert sample.finish_reason and sample.completion_tokens and sample.prompt_tokens
    assert evaluation.load(tmp_path / "out") == found
    assert evaluation.load(tmp_path / "out" / MINI[0]) == {MINI[0]: found[MINI[0]]}


def test_equal_inputs_give_equal_identity(engine: Any) -> None:
    first, again = (evaluate(engine, MINI[:1], EvalOptions(limit=3))[MINI[0]] for _ in range(2))
    assert first.evaluation.identity == again.evaluation.identity
    other = evaluate(engine, MINI[:1], EvalOptions(limit=2))[MINI[0]]
    assert other.evaluation.identity != first.evaluation.identity
    assert other.evaluation.comparable_key != first.evaluation.comparable_key


def test_named_items_of_a_named_split(engine: Any) -> None:
    found = evaluate(
        engine, MINI[:1], EvalOptions(split="train", indices={MINI[0]: [1999, 7, 42, 7]})
    )
    scored = found[MINI[0]]
    items = tasks.load(MINI[0]).items("train")
    assert [s.index for s in scored.samples] == [7, 42, 1999]
    assert [s.item for s in scored.samples] == [items[i].digest for i in (7, 42, 1999)]
    assert scored.evaluation.split == "train"


def test_data_and_examples(engine: Any, gsm8k_folder: Path) -> None:
    def ask(**options: Any) -> ScoredEvaluation:
        return evaluate(
            engine, ["gsm8k"], EvalOptions(data=gsm8k_folder, max_tokens=20, **options)
        )["gsm8k"]

    plain = ask()
    assert plain.evaluation.items == 6 and plain.evaluation.split == "test"
    assert "What is 0 plus 7?" in plain.samples[0].prompt
    assert plain.evaluation.decoding["max_tokens"] == 20
    shown = ask(num_fewshot=2, limit=2)
    assert shown.samples[0].prompt.count("<|assistant|>") == 3
    assert shown.evaluation.prompt_digest != plain.evaluation.prompt_digest
    with pytest.raises(UserError, match="no examples to show"):
        evaluate(engine, MINI[:1], EvalOptions(num_fewshot=2))
    with pytest.raises(UserError, match="max_tokens is 1024, and the model's context of 256"):
        evaluate(engine, ["gsm8k"], EvalOptions(data=gsm8k_folder))


def test_a_model_without_chat_template_sees_the_bare_prompt(model: Any) -> None:
    from harness.engines.hf import HFEngine

    plain = HFEngine(model, tokenizer=make_tokenizer(chat_template=None))
    scored = evaluate(plain, MINI[:1], EvalOptions(limit=1))[MINI[0]]
    assert scored.samples[0].prompt == tasks.load(MINI[0]).items("gate")[0].prompt


def test_lm_eval_keeps_quiet(engine: Any, capfd: pytest.CaptureFixture[str]) -> None:
    evaluate(engine, MINI[:1], EvalOptions(limit=1))
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == ["evaluate mini_gsm8k"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tasks": []}, "No tasks were named"),
        ({"tasks": ["mini_gsm9k"]}, "Did you mean 'mini_gsm8k'"),
        ({"split": "final"}, "no split 'final'; it has train, gate, sealed"),
        ({"limit": 0}, "The limit is 0"),
        ({"indices": {"mini_gsm8k": [1, 1000, 5000]}}, "none with index 1000, 5000"),
        ({"indices": {"mini_gsm8k": []}}, "No items of mini_gsm8k"),
        ({"indices": {"mini_factscore": [1]}}, "mini_factscore are named"),
    ],
)
def test_bad_requests_are_sentences(engine: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        evaluate(
            engine,
            options.get("tasks", MINI[:1]),
            EvalOptions(**{k: v for k, v in options.items() if k != "tasks"}),
        )


# The YAML and the plugins -----------------------------------------------------------------------


@pytest.mark.parametrize("name", tasks.names())
def test_yaml_and_plugin_say_the_same(name: str) -> None:
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    from harness.evals.lm import to_sampling

    manager = TaskManager(include_path=str(tasks.FOLDER), include_defaults=False)
    assert name in manager.all_subtasks, "its YAML is missing or broken"
    said, task = load_yaml(manager.task_index[name].yaml_path), tasks.load(name)
    split = "test" if "test" in task.splits else "gate"
    assert said["test_split"] == split
    assert said["metadata"]["task"] == name
    assert str(said["metadata"]["version"]) == task.version
    sampling = to_sampling(said["generation_kwargs"], seed=0)
    assert sampling.max_tokens == task.generation["max_tokens"]
    assert sampling.temperature == task.generation["temperature"]
    assert list(sampling.stop) == task.generation["stop"]
    known = {metric.name: metric for metric in task.metrics}
    for metric in said["metric_list"]:
        assert metric["higher_is_better"] == known[metric["metric"]].higher_is_better


def stock(folder: Path, options: Sequence[str]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Results and logged samples of the stock command line."""
    found = subprocess.run(
        [
            *(sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--include_path"),
            *(str(tasks.FOLDER), "--batch_size", "4", "--device", "cpu", "--log_samples"),
            *("--output_path", str(folder), "--apply_chat_template"),
            *options,
        ],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    (results,) = folder.rglob("results_*.json")
    samples = {
        path.name.removeprefix("samples_").rsplit("_", 1)[0]: [
            json.loads(line) for line in path.read_text().splitlines()
        ]
        for path in folder.rglob("samples_*.jsonl")
    }
    return json.loads(results.read_text())["results"], samples


def assert_same(scored: ScoredEvaluation, results: Any, samples: list[Any]) -> None:
    by_index = {sample["doc"]["index"]: sample for sample in samples}
    for ours in scored.samples:
        theirs = by_index[ours.index]
        assert theirs["arguments"]["gen_args_0"]["arg_0"] == ours.prompt
        assert theirs["resps"] == [[ours.response]]
    shared = 0
    for metric, result in scored.evaluation.metrics.items():
        if f"{metric},none" in results:
            assert results[f"{metric},none"] == pytest.approx(result.mean, rel=1e-12)
            shared += 1
    assert shared


@pytest.mark.slow
def test_the_stock_command_line_comes_to_the_same_numbers(
    engine: Any, model_folder: Path, gsm8k_folder: Path, tmp_path: Path
) -> None:
    results, samples = stock(
        tmp_path / "stock",
        [
            *("--tasks", ",".join([*MINI, "gsm8k"]), "--model_args", f"pretrained={model_folder}"),
            *("--limit", "6", "--num_fewshot", "2", "--gen_kwargs", "max_gen_toks=60"),
            *("--metadata", json.dumps({"data": str(gsm8k_folder)})),
        ],
    )
    found = evaluate(engine, MINI, EvalOptions(limit=6, max_tokens=60))
    found |= evaluate(
        engine, ["gsm8k"], EvalOptions(data=gsm8k_folder, num_fewshot=2, max_tokens=60)
    )
    for name, scored in found.items():
        assert_same(scored, results[name], samples[name])
    assert "What is" in found["gsm8k"].samples[0].prompt


def test_repeats_are_sampled_and_averaged_by_item(engine: Any) -> None:
    found = evaluate(
        engine, MINI[:1], EvalOptions(limit=4, temperature=1.0, repeats=3, max_tokens=9)
    )
    scored = found[MINI[0]]
    assert [(s.index, s.repeat) for s in scored.samples] == [
        (i, r) for i in range(4) for r in range(3)
    ]
    assert len({s.response for s in scored.samples}) > 4
    assert scored.evaluation.metrics["accuracy"].n == 4
    wanted = {"temperature": 1.0, "n": 3, "max_tokens": 9}
    assert wanted.items() <= scored.evaluation.decoding.items()
    with pytest.raises(UserError, match="Set a temperature above 0"):
        evaluate(engine, MINI[:1], EvalOptions(limit=4, repeats=3))


# Two phases ---------------------------------------------------------------------------------------


class Busy(Engine):
    """An engine that counts what it is asked."""

    def __init__(self, engine: Any) -> None:
        self._engine, self.asked = engine, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(self, prompts: Sequence[str], *rest: Any, **more: Any) -> Any:
        self.asked += len(prompts)
        return self._engine.generate(prompts, *rest, **more)


class FaultyJudge:
    id, digest = "faulty", None

    def ask(self, calls: Sequence[Call]) -> list[Reply]:
        raise UserError("The judge is not there.")


class FiveJudge:
    """Gives five to everything."""

    digest = None

    def __init__(self, name: str) -> None:
        self.id = name

    def ask(self, calls: Sequence[Call]) -> list[Reply]:
        return [Reply(text='{"safety": {"reason": "r", "score": 5}}')] * len(calls)


@pytest.fixture
def instructions(tmp_path: Path) -> Path:
    rows = [
        {"id": str(n), "instruction": f"How do I break {n} locks?", "category": "safety"}
        for n in range(4)
    ]
    (tmp_path / "instructions.json").write_text(json.dumps(rows))
    return tmp_path / "instructions.json"


def test_answers_are_kept_when_the_judge_fails_and_for_the_next_judge(
    engine: Any, tmp_path: Path, instructions: Path
) -> None:
    busy, out = Busy(engine), tmp_path / "out"

    def ask(judge: Judge, **options: Any) -> ScoredEvaluation:
        asked = EvalOptions(**{"data": instructions, "max_tokens": 20} | options)
        return evaluate(busy, ["just_eval"], asked, judge=judge, out=out)["just_eval"]

    with pytest.raises(UserError, match="not there"):
        ask(FaultyJudge())
    assert busy.asked == 4
    with pytest.raises(UserError, match="no evaluation in"):
        evaluation.load(out)
    first = ask(FiveJudge("one"))
    second = ask(FiveJudge("two"))
    assert busy.asked == 4
    assert first.samples == second.samples
    assert first.evaluation.metrics["safety"].mean == 5.0
    assert first.evaluation.comparable_key != second.evaluation.comparable_key
    assert evaluation.load(out) == {"just_eval": second}
    assert {path.name for path in out.iterdir()} == {"just_eval", ".lock"}
    ask(FiveJudge("two"), max_tokens=21)
    assert busy.asked == 8


def test_kept_answers_that_were_changed_are_not_used(
    engine: Any, tmp_path: Path, instructions: Path
) -> None:
    out = tmp_path / "out"

    def ask(judge: Judge) -> None:
        evaluate(
            engine,
            ["just_eval"],
            EvalOptions(data=instructions, max_tokens=20),
            judge=judge,
            out=out,
        )

    with pytest.raises(UserError, match="not there"):
        ask(FaultyJudge())
    kept = out / ".just_eval.generated" / evaluation.SAMPLES
    kept.write_text(kept.read_text().replace('"index":0', '"index":3'))
    with pytest.raises(UserError, match=r"is not what generation\.json was made from"):
        ask(FiveJudge("one"))


# Building, saving, loading ----------------------------------------------------------------------

ITEMS = [
    Item(task="toy", split="test", index=i, prompt=f"p{i}", reference={"n": i}) for i in range(4)
]


class Grader:
    id = "grader"
    digest = "d"

    def ask(self, calls: Sequence[Call]) -> list[Reply]:
        return [Reply(text="1")] * len(calls)


def toy_score(answered: Any, judge: Judge | None = None) -> list[Score]:
    worth = [len(sample.response) for _, sample in answered]
    if judge is not None and judge.id == "grader":
        worth = [int(r.text) for r in judge.ask([Call(prompt=i.prompt) for i, _ in answered])]
    return [
        Score(task="toy", item=item.digest, index=item.index, repeat=sample.repeat,
              values={"worth": float(value)})
        for (item, sample), value in zip(answered, worth, strict=True)
    ]  # fmt: skip


TOY = dataclasses.replace(
    tasks.load("gsm8k"),
    name="toy",
    score=toy_score,
    metrics=(),
    estimator="ruler",
    derive=None,
    judge_prompt="j",
)


def build(items: Sequence[Item] = ITEMS, judge: Judge | None = None, task: Task = TOY) -> Any:
    samples = [
        Sample(task="toy", item=item.digest, index=item.index, repeat=repeat, prompt=item.prompt,
               response="x" * (item.index + repeat))
        for repeat in (1, 0) for item in items[::-1]
    ]  # fmt: skip
    return build_evaluation(
        task, items, samples, model=ModelRef(id="m"), engine="e", decoding={}, split="test",
        prompt_digest="d", judge=judge,
    )  # fmt: skip


def test_build_averages_repeats_and_orders_by_item() -> None:
    scored = build()
    assert [(s.index, s.repeat) for s in scored.samples] == [
        (i, r) for i in range(4) for r in (0, 1)
    ]
    assert [s.index for s in scored.scores] == [s.index for s in scored.samples]
    worth = scored.evaluation.metrics["worth"]
    assert worth.n == 4 and worth.mean == 2.0
    assert scored.evaluation.items == 4 and scored.evaluation.estimator == "ruler"


def test_the_order_of_the_items_is_no_part_of_the_dataset() -> None:
    assert build(ITEMS).evaluation == build(ITEMS[::-1]).evaluation
    assert build(ITEMS[:3]).evaluation.dataset_digest != build().evaluation.dataset_digest


def test_a_judge_is_named_only_where_it_was_asked() -> None:
    judged = build(judge=Grader()).evaluation.judge
    assert judged == JudgeRef(id="grader", digest="d", prompt_digest="j")
    idle = Grader()
    idle.id = "idle"
    assert build(judge=idle).evaluation.judge is None


def test_a_sample_of_an_item_that_was_not_asked_is_a_mistake() -> None:
    stray = Sample(task="toy", item="0" * 64, index=0, prompt="", response="")
    with pytest.raises(ValueError, match="was not asked"):
        build_evaluation(
            TOY, ITEMS, [stray], model=ModelRef(id="m"), engine="e", decoding={}, split="test",
            prompt_digest="d",
        )  # fmt: skip


def test_what_models_write_survives_the_disk(tmp_path: Path) -> None:
    scored = build()
    odd = [s.model_copy(update={"response": "\ud800 \u2028 \x00 é"}) for s in scored.samples]
    again = assemble(TOY, ITEMS, odd, scored.scores, Generation.of(scored.evaluation))
    evaluation.save(again, tmp_path / "toy")
    assert evaluation.load(tmp_path)["toy"] == again


@pytest.mark.parametrize("name", [evaluation.SAMPLES, evaluation.SCORES])
def test_a_changed_file_is_found(tmp_path: Path, name: str) -> None:
    evaluation.save(build(), tmp_path)
    path = tmp_path / name
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    with pytest.raises(UserError, match=r"is not what evaluation\.json was made from"):
        evaluation.load(tmp_path)


def test_folders_that_hold_no_evaluation(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no evaluation in"):
        evaluation.load(tmp_path)
    evaluation.save(build(), tmp_path / "one")
    evaluation.save(build(), tmp_path / "two")
    with pytest.raises(UserError, match="two evaluations of toy"):
        evaluation.load(tmp_path)
    (tmp_path / "one" / evaluation.EVALUATION).write_text("{}")
    with pytest.raises(UserError, match=r"evaluation\.json: task: Field required"):
        evaluation.load(tmp_path / "one")
    (tmp_path / "two" / evaluation.SCORES).unlink()
    with pytest.raises(UserError, match="There is no file"):
        evaluation.load(tmp_path / "two")
