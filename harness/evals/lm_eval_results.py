"""Read the output of stock lm-eval as evaluations, so that any of its runs can be gated.

    lm_eval run --model hf --model_args pretrained=MODEL --tasks arc_easy --log_samples \\
        --output_path results/before

writes a results file and a file of samples per task (see `harness.evals.lm_eval_runs`), one line
per document and filter. Metrics are named as in lm-eval's table: `acc`, and with a filter
`exact_match,strict-match`. Metrics that are not averages over documents (perplexity, BLEU) cannot
be compared item by item, and are left out.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.files import file_digest, read_jsonl, records_digest
from harness.core.schema import LM_EVAL, Evaluation, Item, ModelRef, Sample, Score, digest
from harness.core.scored import ScoredEvaluation
from harness.core.text import listed, plural, quote, shorten
from harness.evals.lm_eval_metrics import (
    combine,
    definitions,
    find_groups,
    not_comparable,
    numbers,
    undefined_for_some,
    with_baseline_definitions,
    with_defined,
)
from harness.evals.lm_eval_repeats import count_each, metric_name
from harness.evals.lm_eval_runs import (
    MAX_DEPTH,
    Run,
    choose,
    find,
    mapping,
    require_readable,
    without_addresses,
)
from harness.readers import Selection, Side
from harness.stats.intervals import aggregate, with_repeats

# Fields of documents that hold the question; a document without any of them is shown whole.
QUESTION_FIELDS = ("question", "prompt", "instruction", "query", "problem", "goal", "sentence")
# Keys of every sample. Before lm-eval 0.4.7 all other keys were names of metrics.
_COMMON_KEYS = {
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "doc_hash", "prompt_hash",
    "target_hash",
}  # fmt: skip


def load(path: Path, wanted: Collection[str] | None = None) -> dict[str, ScoredEvaluation]:
    """Load lm-eval's output at `path` (see `find`) as task -> evaluation.

    With `wanted`, only these tasks and groups of tasks are read; without, every task.

    Raises:
        UserError: a wanted task is missing; no samples were logged; a file is malformed, too
            large, or contradicts the results; or as `harness.evals.lm_eval_runs.choose`.
    """
    runs = choose(path, wanted)
    groups = find_groups(runs)
    if missing := sorted(set(wanted or ()) - runs.keys() - groups.keys()):
        also = f" and the groups {listed(sorted(groups))}" if groups else ""
        raise UserError(
            f"lm-eval's results in {path} have no task or group {shorten(missing[0])}; they have "
            f"the tasks {listed(sorted(runs))}{also}. Evaluate it, or take the rule out."
        )
    names = runs if wanted is None else wanted
    evaluations = {}
    for name in sorted(names):
        if name in groups and name not in runs:
            parts = {task: load_task(runs[task], task) for task in groups[name].tasks}
            combined = combine(groups[name], parts)
            if not combined.evaluation.definitions:
                raise not_comparable(groups[name])
            evaluations[name] = combined
        else:
            evaluations[name] = load_task(runs[name], name)
    return evaluations


class _Reader:
    """lm-eval, whose results are a folder of files or a results file."""

    tool = LM_EVAL
    depth = MAX_DEPTH

    def find(self, path: Path, depth: int) -> list[Path]:
        return find(path, depth)

    def load(
        self, path: Path, files: Sequence[Path], wanted: Collection[str] | None, how: Selection
    ) -> Side:
        return load(path, wanted)

    def align(
        self, before: ScoredEvaluation, after: ScoredEvaluation, sources: tuple[str, str]
    ) -> tuple[ScoredEvaluation, ScoredEvaluation]:
        return with_baseline_definitions(before, after)


READER = _Reader()


def load_task(run: Run, task: str) -> ScoredEvaluation:
    """Read the samples of one task.

    Raises:
        UserError: as `load`.
    """
    try:
        logged = _load(run, task)
        _ = logged.evaluation.identity  # what cannot be identified cannot be compared
    except (ValueError, OverflowError, OSError) as error:
        raise UserError(
            f"{run.path} or its samples of {quote(task)} are malformed: lm-eval does not write "
            f"such values ({type(error).__name__}). Evaluate again."
        ) from error
    return logged


def _load(run: Run, task: str) -> ScoredEvaluation:
    path = run.samples(task)
    if not path.exists():
        raise UserError(
            f"lm-eval kept no samples of {shorten(task)} ({shorten(path.name)} is missing next "
            f"to {run.path}). Run it again with --log_samples."
        )
    require_readable(path)
    rows = [row for _, row in read_jsonl(path)]
    return convert(run, task, rows, source=str(path), samples_digest=file_digest(path))


def convert(
    run: Run,
    task: str,
    rows: Sequence[dict[str, Any]],
    *,
    source: str,
    samples_digest: str | None = None,
) -> ScoredEvaluation:
    """Make an evaluation of the samples that lm-eval logged of a task, from memory or a file.

    `source` names them in errors; `samples_digest` is that of their file, if they have one.

    Raises:
        UserError: a sample is malformed or contradicts the results.
    """
    results, config = run.results, run.configuration(task)
    for number, row in enumerate(rows, 1):
        _check_row(row, f"{source}, line {number}")
    documents = _by_document(rows, config, source)
    # lm-eval counts the documents of its fullest metric: those without any metric are not in it.
    asked = run.documents(task)
    if len(documents) < asked:
        raise UserError(
            f"{source} has samples of {len(documents)} {plural('document', len(documents))}, but "
            f"{run.path.name} says that {asked} were evaluated: the file was cut short. Run "
            "lm-eval again."
        )
    ordered = sorted(documents.items())
    items = number_copies([make_item(task, index, rows[0]) for index, rows in ordered])
    digests = [item.digest for item in items]
    gaps = undefined_for_some(run, task)
    values = [_values(rows, f"{source}, document {index}", gaps) for index, rows in ordered]
    numeric = {name for row in values for name in row} - _not_numbers(values)
    details = count_each(config, [rows for _, rows in ordered])
    scores = [
        Score(
            task=task,
            item=item,
            index=index,
            values={n: float(v) for n, v in row.items() if n in numeric and v is not None},
            unscored={n: "lm-eval gave no value" for n, v in row.items() if v is None},
            details=told,
        )
        for item, (index, _), row, told in zip(digests, ordered, values, details, strict=True)
    ]
    samples = [
        sample
        for item, (index, rows) in zip(digests, ordered, strict=True)
        if (sample := _sample(task, item, index, rows[0])) is not None
    ]
    model = run.entry("config", "model")
    defined = definitions(run, task, scores, numeric)
    scores = [with_defined(score, defined) for score in scores]
    logged = ScoredEvaluation(
        evaluation=Evaluation(
            task=task,
            task_version=str(run.entry("versions", task)),
            split=run.split(task),
            model=ModelRef(id=str(results.get("model_name") or model or run.path.parent)),
            engine=f"{LM_EVAL} {model}",
            decoding=mapping(config.get("generation_kwargs")),
            dataset_digest=digest(digests),
            prompt_digest=prompt_digest(run, task, [rows[0]["prompt_hash"] for _, rows in ordered]),
            code_version=str(results.get("lm_eval_version") or "not recorded"),
            items=len(documents),
            definitions=defined,
            metrics=aggregate(scores, defined) | numbers(run, task, defined, len(documents)),
            samples_digest=samples_digest or records_digest(samples),
            scores_digest=records_digest(scores),
        ),
        samples=samples,
        scores=scores,
        items=items,
    )
    return with_repeats(logged)


def _check_row(row: dict[str, Any], where: str) -> None:
    wanted = {"doc_id": int, "doc_hash": str, "prompt_hash": str, "target_hash": str}
    if "metrics" in row or "filter" in row:  # both, from 0.4.7 on
        wanted |= {"filter": str, "metrics": list}
    for key, kind in wanted.items():
        if not isinstance(row.get(key), kind):
            raise UserError(
                f"{where}: '{key}' is missing or not {kind.__name__}, as it is in what lm-eval "
                "0.4.4 and newer write. Evaluate again with one of these."
            )
    if not all(isinstance(metric, str) for metric in row.get("metrics", ())):
        raise UserError(f"{where}: 'metrics' are not names. Evaluate again with lm-eval.")


def _by_document(
    rows: Sequence[dict[str, Any]], config: Mapping[str, Any], source: str
) -> dict[int, list[dict[str, Any]]]:
    """Group rows by document: one row per filter, with the names of its filter and metrics.

    Before 0.4.7 lm-eval wrote neither: the filters are in the order of the configuration, and the
    metrics are the keys that not every sample has.
    """
    documents: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        documents.setdefault(row["doc_id"], []).append(row)
    configured = config.get("filter_list")
    filters = (
        [str(entry.get("name")) for entry in configured if isinstance(entry, dict)]
        if isinstance(configured, list) and configured
        else ["none"]
    )
    for index, of_document in documents.items():
        unnamed = [row for row in of_document if "filter" not in row]
        if not unnamed:
            continue
        if len(unnamed) != len(filters):
            raise UserError(
                f"{source}, document {index}: there are {len(unnamed)} samples, and the task has "
                f"{len(filters)} filters ({listed(sorted(filters))}). Remove duplicate lines, or "
                "evaluate again."
            )
        for name, row in zip(filters, unnamed, strict=True):
            row |= {"filter": name, "metrics": [key for key in row if key not in _COMMON_KEYS]}
    return documents


def _values(rows: Sequence[dict[str, Any]], where: str, gaps: Collection[str]) -> dict[str, Any]:
    """Collect the metrics of one document over its filters.

    A metric in `gaps` may be NaN, which says that it does not apply to the document.
    """
    values: dict[str, Any] = {}
    for row in rows:
        for metric in row["metrics"]:
            name = metric_name(metric, row["filter"])
            if name in values:
                raise UserError(
                    f"{where}: {quote(name)} is there twice. Remove the duplicate lines."
                )
            value = row.get(metric)
            value = value.get("value") if isinstance(value, dict) else value
            if isinstance(value, float | int) and not math.isfinite(value):
                if math.isnan(value) and metric in gaps:
                    continue
                raise UserError(
                    f"{where}: {quote(name)} is {value}, which cannot be compared. Evaluate "
                    "again, or leave the task out."
                )
            values[name] = value
    return values


def _not_numbers(values: Sequence[dict[str, Any]]) -> set[str]:
    """Name the metrics whose values are tuples and the like, for lm-eval to aggregate."""
    return {
        name
        for row in values
        for name, value in row.items()
        if not isinstance(value, float | int | None)
    }


def make_item(task: str, index: int, row: Mapping[str, Any]) -> Item:
    """Make an item of a logged document: the question, before a chat template is applied."""
    doc = row.get("doc")
    fields = (doc.get(name) for name in QUESTION_FIELDS) if isinstance(doc, dict) else ()
    # Canonical JSON, except that data sets may hold NaN.
    whole = json.dumps(doc, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return Item(
        task=task,
        split="lm-eval",
        index=index,
        prompt=next((f for f in fields if isinstance(f, str) and f), whole),
        reference={"doc_hash": row["doc_hash"], "target_hash": row["target_hash"]},
        document=doc if isinstance(doc, dict) else {},
    )


def number_copies(items: Iterable[Item]) -> list[Item]:
    """Tell equal documents apart: lm-eval counts a document as often as it is in the split."""
    copies: Counter[str] = Counter()
    numbered = []
    for item in items:
        copies[item.digest] += 1
        number = copies[item.digest]
        mark = {"copy": number} if number > 1 else {}
        numbered.append(item.model_copy(update={"reference": item.reference | mark}))
    return numbered


def _sample(task: str, item: str, index: int, row: dict[str, Any]) -> Sample | None:
    """Make a sample of a generated response; None if likelihoods were computed instead."""
    replies = row.get("resps")
    while isinstance(replies, list) and len(replies) > 0:
        replies = replies[0]
    asked = mapping(mapping(row.get("arguments")).get("gen_args_0"))
    if not (isinstance(replies, str) and isinstance(asked.get("arg_1"), dict)):
        return None
    prompt = str(asked.get("arg_0"))
    return Sample(task=task, item=item, index=index, prompt=prompt, response=replies)


def prompt_digest(run: Run, task: str, prompts: Sequence[str]) -> str:
    """Identify how prompts were made, of which lm-eval gives the hashes `prompts`.

    A chat template, and the prompts that it makes, belong to the model.
    """
    results, config = run.results, run.configuration(task)
    made: dict[str, Any] = {
        "system": results.get("system_instruction_sha"),
        "multiturn": run.multiturn(task),
        "chat": bool(results.get("chat_template")),
    }
    if not made["chat"]:
        return digest(made | {"prompts": list(prompts)})
    kept = ("doc_to_text", "description", "num_fewshot", "gen_prefix", "fewshot_delimiter")
    texts = {key: without_addresses(config.get(key)) for key in kept}
    return digest(made | texts | {"seed": run.entry("config", "fewshot_seed")})
