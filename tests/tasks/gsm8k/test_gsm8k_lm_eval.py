"""The YAML under stock lm-eval: discovery, prompts, shots, stop strings, metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.scripted_lm import Scripted

import tasks
from tasks.gsm8k import STOP
from tasks.gsm8k.items import worked_examples

pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from lm_eval.tasks import TaskManager

    data = tmp_path_factory.mktemp("data")
    rows = [
        {"question": f"Ida has {i} pens and buys 2. How many?", "answer": f"#### {i + 2}"}
        for i in range(20)
    ]
    for name in ("train", "test"):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "gsmhardv2.jsonl").write_text('{"input": "Much?", "target": 1e6}\n')
    return TaskManager(
        include_path=str(tasks.FOLDER), include_defaults=False, metadata={"data": str(data)}
    )


def run(manager: Any, name: str, answer: str, **options: Any) -> tuple[Any, dict[str, float]]:
    from lm_eval import simple_evaluate

    model = Scripted(answer)
    results = simple_evaluate(
        model, tasks=[name], task_manager=manager, bootstrap_iters=0, **options
    )
    return model, results["results"][name]


def test_a_chat_run_is_zero_shot_and_scored_by_the_plugin(manager: Any) -> None:
    model, values = run(
        manager, "gsm8k", "3 + 2 = 5\n\nThe answer is **5.00**", apply_chat_template=True
    )
    assert values["accuracy,none"] == pytest.approx(1 / 20)
    assert values["strict_match,none"] == values["flexible_extract,none"] == 0.0
    assert values["invalid,none"] == 0.0
    prompt, options = model.asked[3]
    assert prompt.startswith("<user>Question: Ida has 3 pens")
    assert prompt.endswith("#### ` and the final number.<assistant>")
    assert "beekeeper" not in prompt
    assert options["until"] == list(STOP)


@pytest.mark.slow
def test_our_own_examples_are_the_shots(manager: Any) -> None:
    model, _ = run(
        manager, "gsm8k_8shot", "#### 5", apply_chat_template=True, fewshot_as_multiturn=True
    )
    prompt, _ = model.asked[0]
    assert all(question in prompt and answer in prompt for question, answer in worked_examples())
    assert prompt.count("<assistant>") == 9
    model, _ = run(manager, "gsm8k", "#### 5", num_fewshot=2)
    prompt, _ = model.asked[0]
    assert all(
        (question in prompt) == (at < 2) for at, (question, _) in enumerate(worked_examples())
    )


@pytest.mark.slow
def test_train_shots_come_from_train(manager: Any) -> None:
    trained = {item.prompt for item in tasks.load("gsm8k").items("train", data_of(manager))}
    model, _ = run(manager, "gsm8k_train_shots", "#### 5", limit=5)
    for prompt, _ in model.asked:
        parts = prompt.split("\n\nQuestion: ")
        assert len(parts) == 9
        shots = [part.removeprefix("Question: ").split("\n\nSolve")[0] for part in parts[:8]]
        assert all(any(shot in question for question in trained) for shot in shots)


def data_of(manager: Any) -> Path:
    return Path(manager.metadata["data"])


def test_variants_inherit_and_name_their_own_task(manager: Any) -> None:
    _, values = run(manager, "gsm_hard", "The answer is 1,000,000.")
    assert values["accuracy,none"] == 1.0
    assert {"svamp", "gsm_plus"} <= set(manager.all_subtasks)


def test_our_task_stands_in_for_the_one_of_the_same_name() -> None:
    import lm_eval
    from lm_eval.tasks._index import TaskIndex

    stock = Path(lm_eval.__file__).parent / "tasks" / "gsm8k"
    index = TaskIndex.build([stock, tasks.FOLDER])
    assert index["gsm8k"].yaml_path == tasks.FOLDER / "gsm8k" / "gsm8k.yaml"


def test_the_yaml_agrees_with_the_plugin() -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    task = tasks.load("gsm8k")
    config = load_yaml(tasks.FOLDER / "gsm8k" / "gsm8k.yaml")
    generation = config["generation_kwargs"]
    assert generation["until"] == task.generation["stop"]
    assert generation["max_gen_toks"] == task.generation["max_tokens"]
    assert str(config["metadata"]["version"]) == task.version
    known = {metric.name: metric.higher_is_better for metric in task.metrics}
    listed = {entry["metric"]: entry["higher_is_better"] for entry in config["metric_list"]}
    assert listed == {name: better for name, better in known.items() if name != "truncated"}
