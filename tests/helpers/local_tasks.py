"""Tasks for lm-eval in YAML over files that lie next to them: one per output type, and groups."""

from __future__ import annotations

import json
from pathlib import Path

COLOURS = ("red", "green", "blue", "amber", "violet", "ochre", "teal")
THINGS = ("kite", "lantern", "barrel", "ribbon", "saddle")
CHOOSE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{train: {folder}/train.jsonl, test: {folder}/{file}.jsonl}}}}
training_split: train
fewshot_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: gold
{more}
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
OTHERS = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{train: {folder}/train.jsonl, test: {folder}/{file}.jsonl}}}}
training_split: train
test_split: test
doc_to_text: "{{{{question}}}}"
"""
GENERATE = (
    OTHERS
    + """
output_type: generate_until
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 12, do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}}
  - {{metric: bleu, aggregation: bleu, higher_is_better: true}}
filter_list:
  - name: first-letters
    filter: [{{function: regex, regex_pattern: "([a-z])"}}, {{function: take_first}}]
  - {{name: none, filter: [{{function: take_first}}]}}
"""
)
CLOZE = (
    OTHERS
    + """
output_type: loglikelihood
doc_to_target: " {{{{answer}}}}"
metric_list:
  - {{metric: perplexity, aggregation: perplexity, higher_is_better: false}}
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
)
PROSE = (
    OTHERS.replace('doc_to_text: "{{{{question}}}}"', 'doc_to_text: ""')
    + """
output_type: loglikelihood_rolling
doc_to_target: "{{{{question}}}} {{{{answer}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
"""
)
GROUPS = {
    "by_size": """
group: by_size
task: [colours_many, {group: by_size_few, task: [colours_few, colours_some],
  aggregate_metric_list: [{metric: acc, weight_by_size: true}]}]
aggregate_metric_list:
  - {metric: acc, weight_by_size: true}
  - {metric: acc_norm, weight_by_size: false}
metadata: {version: 3}
""",
    "evenly": """
group: evenly
task: [colours_many, colours_few]
aggregate_metric_list: [{metric: acc, weight_by_size: false}]
""",
    "unscored": """
group: unscored
task: [colours_few, cloze]
""",
}


def make(folder: Path) -> Path:
    """Write the tasks, the groups and their data into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"train": 9, "many": 40, "some": 17, "few": 8}
    first = 0
    for file, count in sizes.items():
        rows = [_document(number) for number in range(first, first + count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{file}.jsonl").write_text(text)
        first += count
    for size in ("many", "some", "few"):
        _write(folder, CHOOSE, f"colours_{size}", size, more="tag: colours_tag")
    _write(folder, CHOOSE, "colours_shown", "some", more="num_fewshot: 2")
    _write(folder, GENERATE, "name_it", "some")
    _write(folder, CLOZE, "cloze", "few")
    _write(folder, PROSE, "prose", "few")
    for name, text in GROUPS.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def _document(number: int) -> dict[str, object]:
    colour, thing = COLOURS[number % len(COLOURS)], THINGS[number % len(THINGS)]
    choices = [COLOURS[(number + step) % len(COLOURS)] for step in (0, 2, 3)]
    turned = number % 3
    return {
        "question": f"She painted {thing} number {number} {colour}. Which colour has it?",
        "choices": choices[turned:] + choices[:turned],
        "gold": -turned % 3,
        "answer": colour,
    }


def _write(folder: Path, text: str, name: str, file: str, more: str = "") -> None:
    made = text.format(name=name, folder=folder, file=file, more=more)
    (folder / f"{name}.yaml").write_text(made)
