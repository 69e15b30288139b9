"""Export a board for Every Eval Ever (schema 0.3.0), a public store of evaluation results.

https://github.com/evaleval/every_eval_ever. There is a file for each evaluation that counts, at the
path where the store keeps it, and no files of samples: a board has no responses.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any, Literal

from harness.board.ledger import EvaluationEntry, Row
from harness.board.ranking import divide
from harness.core.errors import UserError
from harness.core.schema import Evaluation, JudgeRef, Metric, MetricResult, canonical_json, digest

SCHEMA = "0.3.0"
Relationship = Literal["first_party", "third_party", "collaborative", "other"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SAMPLING = ("temperature", "top_p", "top_k", "max_tokens")
_NOT_KNOWN = {"deployment_type": "self_deployed", "model_availability": "unknown"}


def board(
    rows: Sequence[Row],
    organization: str,
    retrieved: int,
    relationship: Relationship = "first_party",
) -> dict[str, dict[str, Any]]:
    """Return the evaluation logs: path in the store -> log.

    A log has the metrics with a mean and a known direction. `retrieved` is the time of the export,
    in seconds since 1970, because a board has no times. A model whose id is not of the form
    owner/name is filed under `organization`.

    Raises:
        UserError: nothing on the board counts.
    """
    standing, _ = divide(rows)
    logs = {}
    for row in standing:
        if isinstance(row.entry, EvaluationEntry):
            log = _log(row.entry, organization, retrieved, relationship)
            if log["evaluation_results"]:
                owner, model = log["model_info"]["id"].split("/")
                # A UUID of version 4, as the store wants it, but always the same one.
                name = uuid.UUID(bytes=bytes.fromhex(digest(row.entry))[:16], version=4)
                folder = _slug(row.entry.evaluation.task)
                logs[f"data/{folder}/{owner}/{model}/{name}.json"] = log
    if not logs:
        raise UserError("The board has no evaluation that could be exported.")
    return logs


def _log(
    entry: EvaluationEntry, organization: str, retrieved: int, relationship: Relationship
) -> dict[str, Any]:
    evaluation = entry.evaluation
    model = _model_id(entry, organization)
    return {
        "schema_version": SCHEMA,
        # One model may be evaluated on several splits of a task.
        "evaluation_id": f"{evaluation.task}-{evaluation.identity[:12]}/{model}/{retrieved}",
        "retrieved_timestamp": str(retrieved),
        "source_metadata": {
            "source_name": "rlrf leaderboard",
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": relationship,
            "additional_details": {
                "entry_digest": digest(entry),
                "evaluation_digest": evaluation.identity,
                "scores_digest": evaluation.scores_digest,
            },
        },
        "eval_library": {"name": "rlrf-harness", "version": evaluation.code_version},
        "model_info": {
            "name": entry.name,
            "id": model,
            "inference_engine": {"name": evaluation.engine},
            "additional_details": _NOT_KNOWN | _given(digest=evaluation.model.digest),
        },
        "evaluation_results": [
            _result(evaluation, definition, result)
            for name, definition in sorted(evaluation.definitions.items())
            if (result := evaluation.metrics.get(name)) and result.mean is not None
        ],
    }


def _result(evaluation: Evaluation, metric: Metric, result: MetricResult) -> dict[str, Any]:
    return {
        "evaluation_result_id": f"{evaluation.identity}.{metric.name}",
        "evaluation_name": f"{evaluation.task} {metric.name}",
        "source_data": {
            "dataset_name": evaluation.task,
            "source_type": "other",
            "additional_details": {
                "split": evaluation.split,
                "version": evaluation.task_version,
                "items": str(evaluation.items),
                "dataset_digest": evaluation.dataset_digest,
                "prompt_digest": evaluation.prompt_digest,
            },
        },
        "metric_config": _metric(evaluation, metric, result),
        "score_details": {
            "score": result.mean,
            "uncertainty": _uncertainty(result),
            "details": {"unscored": str(result.unscored)},
        },
        "generation_config": {
            "generation_args": {
                key: evaluation.decoding[key]
                for key in _SAMPLING
                if isinstance(evaluation.decoding.get(key), int | float)
            },
            "additional_details": {
                "seed": str(evaluation.seed),
                "decoding": canonical_json(evaluation.decoding),
            },
        },
    }


def _metric(evaluation: Evaluation, metric: Metric, result: MetricResult) -> dict[str, Any]:
    low = "-Infinity" if metric.low is None else metric.low
    high = "Infinity" if metric.high is None else metric.high
    inside = result.mean is not None and float(low) <= result.mean <= float(high)
    config: dict[str, Any] = {
        "evaluation_description": metric.description or metric.name,
        "metric_id": f"{evaluation.task}.{metric.name}",
        "metric_name": metric.name,
        "lower_is_better": not metric.higher_is_better,
        # The mean of a yes/no metric is a share.
        "score_type": "continuous",
        "min_score": low if inside else "-Infinity",
        "max_score": high if inside else "Infinity",
    }
    if evaluation.judge:
        config["llm_scoring"] = _judge(evaluation.judge)
    if evaluation.estimator:
        config["additional_details"] = {"estimator": evaluation.estimator}
    return config


def _uncertainty(result: MetricResult) -> dict[str, Any]:
    known: dict[str, Any] = {"num_samples": result.n}
    if result.stderr is not None:
        known["standard_error"] = {"value": result.stderr, "method": "analytic"}
    if result.low is not None and result.high is not None:
        known["confidence_interval"] = {
            "lower": result.low,
            "upper": result.high,
            "confidence_level": 0.95,
        }
    return known


def _judge(judge: JudgeRef) -> dict[str, Any]:
    details = _NOT_KNOWN | {"deployment_type": "unknown"} | _given(digest=judge.digest)
    model = {"name": judge.id, "id": judge.id, "additional_details": details}
    return {
        "judges": [{"model_info": model}],
        "input_prompt": f"sha256 {judge.prompt_digest or 'not recorded'}",
    }


def _model_id(entry: EvaluationEntry, organization: str) -> str:
    known = entry.evaluation.model.id
    return known if _HUB_ID.fullmatch(known) else f"{_slug(organization)}/{_slug(entry.name)}"


def _slug(text: str) -> str:
    """Make a part of a path that any file system accepts."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-. ") or "unnamed"


def _given(**texts: str | None) -> dict[str, str]:
    return {key: text for key, text in texts.items() if text}
