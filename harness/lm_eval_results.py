"""What stock lm-eval wrote, read as evaluations, so that any run of it can be gated.

    lm_eval run --model hf --model_args pretrained=MODEL --tasks arc_easy --log_samples \\
        --output_path results/before

writes `results/before/MODEL/results_TIME.json` and a `samples_TASK_TIME.jsonl` beside it, one
line for each document and filter. A metric is called as lm-eval's table has it: `acc`, and with
a filter `exact_match,strict-match`. Metrics that are no number for each document (perplexity,
BLEU) cannot be compared item by item and are left out.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.schema import Evaluation, Item, Metric, ModelRef, Sample, Score, digest
from harness.store import file_digest, jsonl_bytes, read_json, read_jsonl
from tasks.plugin import aggregate

RESULTS, SAMPLES = "results_", "samples_"
# What documents call the question; one that calls it otherwise is shown whole.
QUESTIONS = ("question", "prompt", "instruction", "query", "problem", "goal", "sentence")
ENGINE = "lm-eval"
MAX_BYTES = 4 * 1024**3  # of one file; the samples of a task are held in memory
_ADDRESS = re.compile(r"0x[0-9a-f]+")  # Python's functions print where they lie


@dataclass(frozen=True)
class Logged:
    """One task of an lm-eval run: as a `harness.evaluation.Scored`, whose fields it has."""

    evaluation: Evaluation
    samples: list[Sample]
    scores: list[Score]
    items: list[Item]


def find(folder: Path) -> Path | None:
    """The results file in `folder` or in the folder of a model in it; the newest of several.

    Raises:
        UserError: several models have results there.
    """
    found = sorted(folder.glob(f"{RESULTS}*.json")) or sorted(folder.glob(f"*/{RESULTS}*.json"))
    models = sorted({path.parent for path in found})
    if len(models) > 1:
        names = ", ".join(path.name for path in models[:5])
        raise UserError(f"{folder} holds lm-eval results of several models ({names}): name one.")
    return found[-1] if found else None  # the name ends in the time


def load(folder: Path) -> dict[str, Logged]:
    """Task -> evaluation, from the output folder of lm-eval.

    Raises:
        UserError: there is none or several; no samples were logged; a file is malformed, too
            large, or does not hold what the results say.
    """
    path = find(folder)
    if path is None:
        raise UserError(f"There is no {RESULTS}*.json of lm-eval in {folder}.")
    results = _object(_bounded(path), path)
    time = path.stem.removeprefix(RESULTS)
    tasks = sorted(_part(results, "n-samples", path))
    if not tasks:
        raise UserError(f"{path} has results of no task.")
    found = {}
    for task in tasks:
        try:
            samples = path.with_name(f"{SAMPLES}{task}_{time}.jsonl")
            found[task] = _load_task(results, task, samples, path)
            _ = found[task].evaluation.identity  # what cannot be identified cannot be compared
        except (ValueError, OverflowError, OSError) as error:
            raise UserError(
                f"What {path} or its samples say of {task[:100]!r} is nothing that lm-eval writes "
                f"({type(error).__name__}). Evaluate again."
            ) from error
    return found


def alike(before: Evaluation, after: Evaluation) -> tuple[Evaluation, Evaluation]:
    """Both with one definition of each metric that both have.

    lm-eval does not say whether a metric is yes/no or how far it runs, so each side shows only
    what was seen on it: a metric is yes/no if it is on both.

    Raises:
        UserError: they disagree which direction is better.
    """
    old, new = before.definitions, after.definitions
    shared = {name: _wider(old[name], new[name]) for name in old if name in new}
    return _defined(before, shared), _defined(after, shared)


def _wider(one: Metric, other: Metric) -> Metric:
    if one.higher_is_better != other.higher_is_better:
        raise UserError(
            f"The two lm-eval runs disagree whether a higher '{one.name}' is better: "
            "evaluate both with the same version of the task."
        )
    kind = one.kind if one.kind == other.kind else "continuous"
    lows = [end for end in (one.low, other.low) if end is not None]
    highs = [end for end in (one.high, other.high) if end is not None]
    return one.model_copy(
        update={
            "kind": kind,
            "low": min(lows) if len(lows) == 2 else None,
            "high": max(highs) if len(highs) == 2 else None,
        }
    )


def _defined(evaluation: Evaluation, shared: Mapping[str, Metric]) -> Evaluation:
    return evaluation.model_copy(update={"definitions": evaluation.definitions | dict(shared)})


def _load_task(results: dict[str, Any], task: str, path: Path, source: Path) -> Logged:
    if not path.exists():
        raise UserError(
            f"lm-eval kept no samples of {task} ({path.name} is not beside {source}). "
            "Run it again with --log_samples."
        )
    rows = [row for _, row in read_jsonl(_bounded(path))]
    documents: dict[int, list[dict[str, Any]]] = {}
    for number, row in enumerate(rows, 1):
        _check_row(row, f"{path}, line {number}")
        documents.setdefault(row["doc_id"], []).append(row)
    # lm-eval counts the documents of its fullest metric: those without any metric are not in it.
    asked = _effective(results, task, source)
    if len(documents) < asked:
        raise UserError(
            f"{path} has samples of {len(documents)} documents, but {source.name} says that "
            f"{asked} were evaluated: the file was cut short. Run lm-eval again."
        )
    ordered = sorted(documents.items())
    items = [_item(task, index, found[0]) for index, found in ordered]
    digests = [item.digest for item in items]
    values = [_values(found, f"{path}, document {index}") for index, found in ordered]
    numbers = {n for row in values for n in row if n not in _not_numbers(values)}
    scores = [
        Score(
            task=task,
            item=item,
            index=index,
            values={n: float(v) for n, v in row.items() if n in numbers and v is not None},
            unscored={n: "lm-eval gave no value" for n, v in row.items() if v is None},
        )
        for item, (index, _), row in zip(digests, ordered, values, strict=True)
    ]
    samples = [
        sample
        for item, (index, found) in zip(digests, ordered, strict=True)
        if (sample := _sample(task, item, index, found[0])) is not None
    ]
    config = _mapping(_part(results, "configs", source).get(task))
    run = _mapping(results.get("config"))
    return Logged(
        evaluation=Evaluation(
            task=task,
            task_version=str(_mapping(results.get("versions")).get(task)),
            split=str(config.get("test_split") or config.get("validation_split") or "test"),
            model=ModelRef(id=str(results.get("model_name") or run.get("model") or source.parent)),
            engine=f"{ENGINE} {run.get('model')}",
            decoding=_mapping(config.get("generation_kwargs")),
            dataset_digest=digest(digests),
            prompt_digest=_prompt_digest(results, config, [found[0] for _, found in ordered]),
            code_version=str(results.get("lm_eval_version")),
            items=len(documents),
            definitions=_definitions(results, task, scores, numbers),
            metrics=aggregate(scores),
            samples_digest=file_digest(path),
            scores_digest=hashlib.sha256(jsonl_bytes(scores)).hexdigest(),
        ),
        samples=samples,
        scores=scores,
        items=items,
    )


def _check_row(row: dict[str, Any], where: str) -> None:
    wanted = {"doc_id": int, "doc_hash": str, "prompt_hash": str, "target_hash": str}
    wanted |= {"filter": str, "metrics": list}
    for key, kind in wanted.items():
        if not isinstance(row.get(key), kind):
            raise UserError(
                f"{where}: '{key}' is missing or not {kind.__name__}. This is no sample of "
                "lm-eval 0.4.4 or newer; evaluate again with a newer one."
            )
    if not all(isinstance(metric, str) for metric in row["metrics"]):
        raise UserError(f"{where}: 'metrics' are not names. Evaluate again with lm-eval.")


def _values(found: Sequence[dict[str, Any]], where: str) -> dict[str, Any]:
    """The metrics of one document, over its filters."""
    values: dict[str, Any] = {}
    for row in found:
        for metric in row["metrics"]:
            name = metric if row["filter"] == "none" else f"{metric},{row['filter']}"
            if name in values:
                raise UserError(f"{where}: '{name}' is there twice. Remove the duplicate lines.")
            value = row.get(metric)
            value = value.get("value") if isinstance(value, dict) else value
            if isinstance(value, float | int) and not math.isfinite(value):
                raise UserError(f"{where}: '{name}' is {value}, which cannot be compared.")
            values[name] = value
    return values


def _not_numbers(values: Sequence[dict[str, Any]]) -> set[str]:
    """Metrics that lm-eval only sums up over all documents, from tuples and the like."""
    return {
        name
        for row in values
        for name, value in row.items()
        if not isinstance(value, float | int | None)
    }


def _definitions(
    results: dict[str, Any], task: str, scores: Sequence[Score], names: set[str]
) -> dict[str, Metric]:
    """How the gate reads each metric; the first of lm-eval's table is the headline."""
    higher = _mapping(_mapping(results.get("higher_is_better")).get(task))
    table = _mapping(_mapping(results.get("results")).get(task))
    shown = [key.removesuffix(",none") for key in table]
    primary = next((name for name in shown if name in names), None)
    found = {}
    for name in sorted(names):
        values = [score.values[name] for score in scores if name in score.values]
        binary = all(value in (0.0, 1.0) for value in values)
        found[name] = Metric(
            name=name,
            kind="binary" if binary else "continuous",
            low=min(0.0, *values, 0.0),
            high=max(1.0, *values, 1.0),
            higher_is_better=higher.get(name.split(",")[0]) is not False,
            primary=name == primary,
            description="as lm-eval logged it; a range beyond 0 to 1 is the one that was seen",
        )
    return found


def _item(task: str, index: int, row: dict[str, Any]) -> Item:
    """The document: what was asked, before a model's template made a prompt of it."""
    doc = row.get("doc")
    fields = (doc.get(name) for name in QUESTIONS) if isinstance(doc, dict) else ()
    # As canonical JSON, but that data sets may hold NaN.
    whole = json.dumps(doc, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return Item(
        task=task,
        split="lm-eval",
        index=index,
        prompt=next((f for f in fields if isinstance(f, str) and f), whole),
        reference={"doc_hash": row["doc_hash"], "target_hash": row["target_hash"]},
        document=doc if isinstance(doc, dict) else {},
    )


def _sample(task: str, item: str, index: int, row: dict[str, Any]) -> Sample | None:
    """What was generated; None where likelihoods were asked for."""
    replies = row.get("resps")
    while isinstance(replies, list) and len(replies) > 0:
        replies = replies[0]
    asked = _mapping(_mapping(row.get("arguments")).get("gen_args_0"))
    if not (isinstance(replies, str) and isinstance(asked.get("arg_1"), dict)):
        return None
    prompt = str(asked.get("arg_0"))
    return Sample(task=task, item=item, index=index, prompt=prompt, response=replies)


def _prompt_digest(
    results: dict[str, Any], config: dict[str, Any], rows: Sequence[dict[str, Any]]
) -> str:
    """How prompts were made. A chat template is a part of the model, and its prompts with it."""
    made: dict[str, Any] = {
        "system": results.get("system_instruction_sha"),
        "multiturn": results.get("fewshot_as_multiturn"),
        "chat": bool(results.get("chat_template")),
    }
    if not made["chat"]:
        return digest(made | {"prompts": [row["prompt_hash"] for row in rows]})
    kept = ("doc_to_text", "description", "num_fewshot", "gen_prefix", "fewshot_delimiter")
    texts = {key: _ADDRESS.sub("", str(config.get(key))) for key in kept}
    return digest(made | texts | {"seed": _mapping(results.get("config")).get("fewshot_seed")})


def _effective(results: dict[str, Any], task: str, path: Path) -> int:
    count = _mapping(_part(results, "n-samples", path).get(task)).get("effective")
    if not isinstance(count, int) or count < 1:
        raise UserError(f"{path} does not say how many documents of {task} were evaluated.")
    return count


def _bounded(path: Path) -> Path:
    if path.stat().st_size > MAX_BYTES:
        raise UserError(
            f"{path} is larger than {MAX_BYTES // 1024**3} GiB, which is not read: evaluate fewer "
            "documents with lm-eval's --limit or --samples."
        )
    return path


def _object(path: Path, name: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{name} is not a results file of lm-eval: an object is expected.")
    return value


def _part(results: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    if not isinstance(results.get(key), dict):
        raise UserError(f"{path} is not a results file of lm-eval: it has no '{key}'.")
    return dict(results[key])


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
