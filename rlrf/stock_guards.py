"""What a run has to know of lm-eval's tasks before they guard it, without asking a model."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.core.schema import Item, Message, Metric
from harness.core.scored import ScoredEvaluation
from harness.evals.evaluate import EvalOptions
from harness.evals.lm_eval_metrics import base
from harness.evals.stock_tasks import StockTask, quiet_lm_eval

if TYPE_CHECKING:
    from harness.evals.stock_runs import StockRun

DOCUMENTS_TRIED = 2  # per task
# Metrics that are yes/no for every document. Others may happen to be: whether a metric is yes/no
# must not depend on what a model answered, as both sides of a gate have to agree about it.
YES_NO = {
    "acc", "acc_bytes", "acc_mutual_info", "acc_norm", "accuracy", "em", "exact_match",
    "math_verify", "pass@1", "pass_at_1", "prompt_level_loose_acc", "prompt_level_strict_acc",
}  # fmt: skip


def measured_metrics(
    benchmark: StockTask, num_fewshot: int | None, apply_chat_template: bool | None
) -> tuple[dict[str, Metric], list[str]]:
    """Return the metrics that the gate can compare, and the names of those that it cannot.

    Some documents get an empty answer, or equal likelihoods, and lm-eval scores them: this shows
    its metrics, and whether prompts can be made and answers be scored at all.

    Raises:
        UserError: prompts cannot be made, answers cannot be scored, or the gate can compare none
            of the metrics.
    """
    if any(getattr(task, "UNSAFE_CODE", False) for task in benchmark.members.values()):
        raise UserError(
            "It runs code that the model writes, which a run does not do: evaluate its models "
            "afterwards, with `rlrf eval --confirm-run-unsafe-code`."
        )
    options = EvalOptions(
        indices={member: range(min(DOCUMENTS_TRIED, n)) for member, n in benchmark.sizes.items()},
        num_fewshot=num_fewshot,
        apply_chat_template=apply_chat_template,
    )
    with quiet_lm_eval():
        run = _run_without_model(benchmark, options)
    run.answer()
    evaluation = with_fixed_kinds(run.score()).evaluation
    metrics = {n: m for n, m in evaluation.definitions.items() if _is_mean(benchmark, n)}
    measured = {*evaluation.metrics, *_aggregations(benchmark)} - metrics.keys()
    bases = {base(metric) for metric in metrics}
    not_compared = sorted({base(metric) for metric in measured} - bases)
    if not metrics:
        why = (
            "its tasks have none in common that counts every document alike. Name its tasks as "
            "guards"
            if benchmark.is_group
            else "lm-eval has no value per item of it that it averages. Choose another task"
        )
        named = f" ({', '.join(not_compared)})" if not_compared else ""
        raise UserError(f"The gate can compare no metric{named}: {why}.")
    return metrics, not_compared


def _is_mean(benchmark: StockTask, metric: str) -> bool:
    """Return whether lm-eval averages a metric over the documents, whatever the answers are.

    A few documents do not show it: their mean may equal any other aggregate by chance.
    """
    plain = base(metric)
    if benchmark.is_group:
        weighted = benchmark.groups[benchmark.name].aggregate_metric_list or ()
        if not all(entry.weight_by_size for entry in weighted if entry.metric == plain):
            return False
    aggregate = _aggregations(benchmark).get(plain)
    try:
        return aggregate is not None and math.isclose(aggregate([0.0, 0.0, 1.0]), 1 / 3)
    except Exception:  # a function of the task, for other values than numbers
        return False


def _aggregations(benchmark: StockTask) -> dict[str, Any]:
    """Return metric -> the function by which lm-eval aggregates its values, of the tasks."""
    return {
        name: function
        for task in benchmark.members.values()
        for name, function in task.aggregation().items()
    }


def with_fixed_kinds(scored: ScoredEvaluation) -> ScoredEvaluation:
    """Return the evaluation with metrics that are yes/no only if they are for every model."""
    definitions = {
        name: metric if base(name) in YES_NO else metric.model_copy(update={"kind": "continuous"})
        for name, metric in scored.evaluation.definitions.items()
    }
    return scored.with_definitions(definitions)


def describe(benchmark: StockTask) -> list[Any]:
    """Describe how lm-eval makes prompts and scores answers, to notice a change."""
    from harness.evals.lm_eval_runs import without_addresses

    tasks = {name: task.dump_config() for name, task in benchmark.members.items()}
    return [
        importlib.metadata.version("lm-eval"),
        {
            name: {key: without_addresses(value) for key, value in sorted(config.items())}
            for name, config in tasks.items()
        },
    ]


def prompts(benchmark: StockTask, items: Sequence[Item]) -> dict[int, str]:
    """Return index -> the text that a model reads of an item, without examples."""
    return {index: texts[0] for index, texts in _texts(benchmark, items).items()}


def questions(benchmark: StockTask, items: Sequence[Item]) -> dict[int, str]:
    """Return index -> the text of an item with its choices: equal for equal questions."""
    return {index: "\n".join(texts) for index, texts in _texts(benchmark, items).items()}


def _texts(benchmark: StockTask, items: Sequence[Item]) -> dict[int, list[str]]:
    """Return index -> the prompt of an item, and its choices."""
    wanted = {item.index: item for item in items}
    texts: dict[int, list[str]] = {}
    for name, task in benchmark.members.items():
        for place, document in enumerate(task.eval_docs, benchmark.starts[name]):
            if place in wanted:
                texts[place] = _document_texts(task, document, wanted[place])
    return texts


def _document_texts(task: Any, document: Any, item: Item) -> list[str]:
    prompt = task.doc_to_text(document)
    choices: Any = None
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = task.doc_to_choice(document)
    # Some tasks, such as WinoGrande, choose between contexts: their prompt is a number.
    text = prompt if isinstance(prompt, str) and prompt else item.prompt
    return [text, *map(str, choices if isinstance(choices, list | tuple) else ())]


def first_documents(benchmark: StockTask, items: Sequence[Item], limit: int | None) -> list[Item]:
    """Return the first items of each task, as lm-eval's --limit counts."""
    if limit is None:
        return list(items)
    kept: list[Item] = []
    for name, start in benchmark.starts.items():
        kept += items[start : start + min(benchmark.sizes[name], limit)]
    return kept


def _run_without_model(benchmark: StockTask, options: EvalOptions) -> StockRun:
    """Return an evaluation of an engine that is none, which gets the same answer to everything."""
    from harness.engines import Completion, Engine
    from harness.evals.lm import EngineLM
    from harness.evals.stock_runs import StockRun

    answers: dict[str, Any] = {
        "generate_until": Completion("", "stop", 0, 0),
        "loglikelihood": (-1.0, False),
        "loglikelihood_rolling": -1.0,
    }

    class NoEngine(Engine):
        name, model_id, model_digest, tokenizer = "none", "no model", None, None

        def render(self, messages: Sequence[Message]) -> str:
            return "\n".join(message.content for message in messages)

        def generate(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

    class NoModel(EngineLM):
        def require_likelihoods(self) -> None:
            """Accept tasks that need likelihoods."""

    class DryRun(StockRun):
        def answer(self) -> None:
            for task in self._tasks.values():
                for request in task.instances:
                    answer = answers[request.request_type]
                    self._answers[id(request)] = [answer] * request.repeats

    return DryRun(benchmark, options, NoModel(NoEngine()))
