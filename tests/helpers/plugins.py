"""Benchmarks outside the package, as a user writes them."""

from __future__ import annotations

from pathlib import Path

INIT = '''\
"""Count the letters of a word."""

from .scoring import METRICS, feedback, score
from harness.core.schema import Item
from tasks.task import Task

WORDS = {{
    "train": "apple pear plum fig cherry quince banana kiwi lime mango olive papaya".split(),
    "gate": "oak elm ash birch willow maple alder cedar".split(),
    "sealed": "rose tulip daisy iris lily".split(),
}}


def items(split, data=None):
    return [
        Item(
            task="{name}",
            split=split,
            index=index,
            prompt=f"How many letters has the word {{word}}?",
            reference={{"answer": str(len(word))}},
            tags={{"length": ["long" if len(word) > 4 else "short"]}},
        )
        for index, word in enumerate(WORDS[split])
    ]


TASKS = [
    Task(
        name="{name}",
        version="1",
        metrics=METRICS,
        splits=("train", "gate", "sealed"),
        items=items,
        score=score,
        feedback=feedback,
        generation={{"max_tokens": 12, "temperature": 0.0, "stop": []}},
    )
]
'''
SCORING = """\
from harness.core.schema import AspectFeedback, Feedback, Metric
from tasks.task import new_score

METRICS = (Metric(name="right", kind="binary", primary=True),)


def score(answered, judge=None):
    return [
        new_score(sample, {"right": float(item.reference["answer"] in sample.response.split())})
        for item, sample in answered
    ]


def feedback(item, sample, score):
    right = score.values.get("right") == 1.0
    aspect = AspectFeedback(
        aspect="count",
        justification="Right." if right else f"It has {item.reference['answer']} letters.",
        grade=2 if right else 0,
    )
    return Feedback(task=item.task, item=item.digest, aspects=[aspect])
"""
YAML = """\
task: {name}
custom_dataset: !function tasks.hooks.dataset
test_split: gate
output_type: generate_until
num_fewshot: 0
doc_to_text: "{{{{prompt}}}}"
doc_to_target: ""
process_results: !function tasks.hooks.process_results
generation_kwargs:
  until: []
  do_sample: false
  temperature: 0.0
  max_gen_toks: 12
metric_list:
  - metric: right
    aggregation: mean
    higher_is_better: true
metadata:
  task: {name}
  version: 1
"""


def write_plugin(folder: Path, name: str = "letters") -> Path:
    """Write a plugin with the benchmark `name` to `folder`, and return the folder."""
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(INIT.format(name=name))
    (folder / "scoring.py").write_text(SCORING)
    (folder / f"{name}.yaml").write_text(YAML.format(name=name))
    return folder
