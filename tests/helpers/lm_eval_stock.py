"""Output of the installed lm-eval: its own dummy model, its own tracker, tasks made here.

The dummy model answers "lol" and draws likelihoods at random, from a seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ASKED = 60
LOSSES_ASKED = 160  # a metric without a range needs more than 100 items for a bound
GENERATE = """
task: sums
custom_dataset: !function documents.splits
test_split: test
output_type: generate_until
doc_to_text: "Question: {{question}} Answer:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["|"], max_gen_toks: 8}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
  - {metric: bleu, aggregation: bleu, higher_is_better: true}
filter_list:
  - name: strict-match
    filter: [{function: regex, regex_pattern: "(lol)"}, {function: take_first}]
  - {name: none, filter: [{function: take_first}]}
metadata: {version: 2}
"""
DOCUMENTS = """
import datasets

def splits(first=0, last=80, **_):
    rows = [
        {
            "question": f"What is {i} plus 2?",
            "answer": "lol" if i % 3 == 0 else str(i + 2),
            "choices": [str(i + 2), "many"],
            "gold": 0,
        }
        for i in range(first, last)
    ]
    return {"test": datasets.Dataset.from_list(rows)}

def many(**_):
    return splits(0, 160)

def school_a(**_):
    return splits(0, 10)

def school_b(**_):
    return splits(0, 40)

def school_c(**_):
    return splits(20, 75)

def measured(doc, results):
    return {"loss": -results[0][0] * 50, "acc": float(results[0][0] > results[1][0]),
            "perplexity": results[0][0], "told": 3.0 if doc["gold"] else 2.0}

def middle(values):
    return sorted(values)[len(values) // 2]
"""
CHOOSE = """
task: choose
custom_dataset: !function documents.splits
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}} Answer:"
doc_to_target: gold
doc_to_choice: choices
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
LOSSES = """
task: losses
custom_dataset: !function documents.many
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}} Answer:"
doc_to_target: gold
doc_to_choice: choices
process_results: !function documents.measured
metric_list:
  - {metric: loss, aggregation: mean, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: told, aggregation: !function documents.middle, higher_is_better: true}
"""
GROUPS = {
    "school": """
group: school
task:
  - group: lower
    task: [school_a, school_b]
    aggregate_metric_list: [{metric: acc, weight_by_size: true}]
  - school_c
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
""",
    "evenly": """
group: evenly
task: [school_a, school_b, school_c]
aggregate_metric_list: [{metric: acc, weight_by_size: false}]
""",
    "unscored": """
group: unscored
task: [school_a, school_c]
""",
}


def make_tasks(folder: Path) -> Path:
    """Write the tasks and groups into `folder`, for lm-eval's include_path."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "documents.py").write_text(DOCUMENTS)
    (folder / "sums.yaml").write_text(GENERATE)
    (folder / "choose.yaml").write_text(CHOOSE)
    (folder / "losses.yaml").write_text(LOSSES)
    for name in ("school_a", "school_b", "school_c"):
        task = CHOOSE.replace("task: choose", f"task: {name}")
        (folder / f"{name}.yaml").write_text(task.replace("documents.splits", f"documents.{name}"))
    for name, text in GROUPS.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def evaluate(
    folder: Path,
    out: Path,
    tasks: Sequence[str],
    *,
    limit: int | None = ASKED,
    seed: int = 0,
    model: Any = "dummy",
) -> Path:
    """Evaluate tasks of `folder` and write the output to `out` as lm-eval's own command does."""
    import huggingface_hub.constants
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    tracker = EvaluationTracker(output_path=str(out))
    with pytest.MonkeyPatch.context() as patch:  # it looks for newer metrics on the hub
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        results = simple_evaluate(
            model=model,
            tasks=list(tasks),
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            evaluation_tracker=tracker,
            random_seed=seed,
        )
    answered = results.pop("samples")
    tracker.general_config_tracker.model_name = "dummy"
    tracker.save_results_aggregated(results=results, samples=answered)
    for task in results["configs"]:
        tracker.save_results_samples(task_name=task, samples=answered[task])
    return out


def results_of(folder: Path) -> Path:
    """The one results file below a folder."""
    (path,) = folder.rglob("*_20*.json")
    return path


def change_results(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Rewrite the results file below a folder; return the folder."""
    path = results_of(folder)
    results = json.loads(path.read_text())
    edit(results)
    path.write_text(json.dumps(results))
    return folder


def samples_of(folder: Path, task: str) -> Path:
    """The one file of samples of a task below a folder."""
    (path,) = folder.rglob(f"samples_{task}_*.jsonl")
    return path


def change_samples(
    folder: Path, task: str, edit: Callable[[dict[str, Any]], None], most: int = 10**6
) -> Path:
    """Rewrite the first `most` samples of a task; return the folder."""
    path = samples_of(folder, task)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[:most]:
        edit(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
