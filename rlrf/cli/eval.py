"""`rlrf eval`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from harness.core.errors import UserError
from harness.core.log import say
from harness.engines import KINDS
from rlrf.cli import options
from rlrf.cli.options import COUNT, FOLDER, SHARE
from rlrf.cli.output import print_result

if TYPE_CHECKING:
    from harness.core.schema import Evaluation, Record
    from harness.core.scored import ScoredEvaluation
    from harness.engines.open import EngineSpec
    from rlrf.config import Executor

R = TypeVar("R", bound="Record")


@click.command("eval")
@options.bundle(
    "engine",
    click.option("--model", required=True, help="Folder, hub id, or what the server calls it."),
    click.option(
        "--engine",
        "kind",
        type=click.Choice(KINDS),
        default="hf",
        show_default=True,
        help="What runs the model; openai: a server with an OpenAI-compatible API.",
    ),
    click.option("--base-url", help="openai: address of the server, usually ending in /v1."),
    click.option("--api-key-env", help="openai: environment variable that holds the key."),
    click.option(
        "--max-unanswered",
        type=SHARE,
        help="openai: share of responses that may stay unanswered.  [default: 0.5]",
    ),
    click.option("--tokenizer", type=FOLDER, help="Tokenizer folder.  [default: the model's]"),
    click.option("--revision", help="Hub revision; openai: your name for the server's weights."),
    options.adapter,
    click.option("--device", help="cpu or cuda.  [default: cuda if available]"),
    click.option("--dtype", help="float32, bfloat16 or float16.  [default: auto]"),
    click.option("--max-batch", type=COUNT, help="Responses per batch.  [default: engine's]"),
)
@click.option(
    "--tasks",
    "task_names",
    required=True,
    help="Tasks of `rlrf tasks`, or tasks, groups and tags of lm-eval, by comma.",
)
@options.include_path
@options.judge_file
@options.bundle(
    "items",
    click.option("--split", help="Split of the tasks.  [default: the task's own]"),
    click.option("--limit", type=COUNT, help="Only the first items of each task."),
    click.option(
        "--samples",
        metavar="JSON",
        help="Only these items: a JSON object, or a file of one, such as '{\"arc_easy\": [0, 7]}'.",
    ),
    options.data,
    click.option("--num-fewshot", type=click.IntRange(min=0), help="Solved examples per prompt."),
    click.option("--max-tokens", type=COUNT, help="Longest response, in tokens."),
    click.option("--temperature", type=click.FloatRange(min=0), help="0 is greedy."),
    click.option("--repeats", type=COUNT, help="Responses per item."),
    options.seed,
)
@options.bundle(
    "prompts",
    click.option(
        "--apply-chat-template/--no-apply-chat-template",
        default=None,
        help="Render prompts by the model's chat template.  [default: for tasks of `rlrf tasks` if "
        "the model has one; for tasks of lm-eval not, as `lm_eval run`]",
    ),
    click.option(
        "--fewshot-as-multiturn/--no-fewshot-as-multiturn",
        default=None,
        help="Show solved examples as turns.  [default: with a chat template]",
    ),
    click.option("--system-instruction", help="System message, or text before the prompt."),
    click.option(
        "--confirm-run-unsafe-code",
        is_flag=True,
        help="Run code that the model writes, for tasks of lm-eval that do so.",
    ),
)
@options.bundle(
    "cluster",
    click.option("--ray", help="Ray cluster: auto, host:port, or here to start one."),
    click.option("--engines", type=COUNT, help="--ray: number of engines.  [default: 1]"),
    click.option("--gpus", type=SHARE, help="--ray: GPUs per engine.  [default: 0]"),
)
@options.repeat_sizes
@click.option("--out", type=FOLDER, help="Write evaluations to OUT/TASK, for `gate` and `board`.")
@options.as_json
def eval_(
    *,
    engine: dict[str, Any],
    task_names: str,
    judge_file: Path | None,
    items: dict[str, Any],
    prompts: dict[str, Any],
    cluster: dict[str, Any],
    sizes: str | None,
    out: Path | None,
) -> None:
    """Evaluate a model on tasks.

    All responses are generated first and kept in OUT; then they are scored. Run the same command
    again to resume.

    With --repeats, each item is answered several times. Next to the mean, the table then shows of
    a yes/no primary metric the chance that one of k responses is right (pass@k), that all are
    (pass^k), and that the answer of most is (maj@k).

    Tasks of lm-eval are evaluated as `lm_eval run` does, with the same numbers, whatever their
    output type. --include-path adds YAML files of your own. What is not a mean over items
    (perplexity, BLEU) is shown, and cannot be gated.

    \b
    rlrf eval --model runs/quickstart/iter_1/train/model --tasks mini_gsm8k --split gate
    rlrf eval --model Qwen/Qwen2.5-0.5B-Instruct --tasks gsm8k --limit 200 --out evaluations/qwen
    rlrf eval --model MODEL --tasks gsm8k --repeats 8 --temperature 0.7 --k 1,8 --out evaluations/8
    rlrf eval --model MODEL --tasks just_eval,factscore --judge judge.yaml --out evaluations/mine
    rlrf eval --model MODEL --include-path benchmarks --tasks capitals --split gate
    rlrf eval --model MODEL --tasks arc_easy,ifeval,mmlu_anatomy --out evaluations/mine
    rlrf eval --model MODEL --tasks mmlu --num-fewshot 5 --limit 100 --out evaluations/mine
    rlrf eval --model MODEL --include-path my_tasks --tasks my_task --apply-chat-template
    rlrf eval --engine openai --base-url http://localhost:8000/v1 --model m --tasks mini_gsm8k
    rlrf eval --ray auto --engines 8 --gpus 1 --model MODEL --tasks gsm8k --out evaluations/mine
    """
    import rlrf
    from harness.engines.open import SERVER_OPTIONS, EngineSpec
    from harness.evals.evaluate import EvalOptions

    k = options.read_sizes(sizes, items["repeats"])
    spec, executor = EngineSpec(**engine), None
    if cluster["ray"] is None:
        _refuse({name: cluster[name] for name in ("engines", "gpus")}, "without --ray")
    else:
        _refuse(spec.given(*SERVER_OPTIONS, "tokenizer"), "with --ray")
        executor = _executor(spec, **cluster)
    tasks = options.names(task_names)
    samples = items.pop("samples")
    if samples is not None and items["limit"] is not None:
        raise UserError("--samples names the items, and --limit counts them: give one of the two.")
    items["indices"] = _read_samples(samples) if samples is not None else {}
    asked = EvalOptions(**items, **prompts)
    evaluations = rlrf.evaluate(spec, tasks, asked, judge=judge_file, executor=executor, out=out)
    print_evaluations(evaluations, out, k)


def print_evaluations(
    scored: Mapping[str, ScoredEvaluation], out: Path | None, sizes: Sequence[int] | None = None
) -> None:
    """Print the metrics of evaluations, and say so if these were not written to a folder.

    `sizes` are the values of k for metrics of several responses, if not those of the default.
    """
    from harness.evals.lm_eval_metrics import member_results
    from harness.render.table import evaluation_table

    evaluations = [
        side.evaluation if sizes is None else _with_sizes(side, sizes) for side in scored.values()
    ]
    members = {task: member_results(side) for task, side in scored.items()}
    print_result(evaluations, evaluation_table(evaluations, members))
    if out is None:
        say("Not kept: name a folder with --out to gate or publish this.")


def _with_sizes(scored: ScoredEvaluation, sizes: Sequence[int]) -> Evaluation:
    """Return the evaluation with the metrics of `sizes` responses instead of the reported ones."""
    from harness.stats.intervals import aggregate_repeats
    from harness.stats.repeats import reported_names

    reported = reported_names(scored)
    kept = {n: result for n, result in scored.evaluation.metrics.items() if n not in reported}
    chosen = aggregate_repeats(scored, reported_names(scored, sizes))
    return scored.evaluation.model_copy(update={"metrics": kept | chosen})


def _read_samples(text: str) -> dict[str, list[int]]:
    """Read items by task from a JSON object, or from a file of one."""
    from harness.core.files import read_json, unique_keys

    if text.lstrip().startswith("{"):
        try:
            given = json.loads(text, object_pairs_hook=unique_keys)
        except (ValueError, RecursionError) as error:
            raise UserError(f"--samples is not JSON: {error}.") from error
    else:
        given = read_json(Path(text))
    if not isinstance(given, dict) or not all(
        isinstance(places, list) and all(type(place) is int and place >= 0 for place in places)
        for places in given.values()
    ):
        raise UserError(
            "--samples has to be a JSON object of tasks and the places of items from 0, such as "
            """'{"arc_easy": [0, 7]}'."""
        )
    return given


def _refuse(given: dict[str, Any], where: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')} means nothing {where}; leave it out.")


def _executor(spec: EngineSpec, ray: str, **given: Any) -> Executor:
    """Read the options of --ray, and refuse an engine that cannot run there."""
    from pydantic import ValidationError

    from harness.core.yaml import explain
    from rlrf.config import EngineConfig, Executor

    def read(kind: type[R], values: dict[str, Any]) -> R:
        try:
            return kind.model_validate({k: v for k, v in values.items() if v is not None})
        except ValidationError as error:
            raise UserError(f"--ray: {explain(error, kind)}") from error

    read(EngineConfig, spec.given("kind", "device", "dtype", "max_batch"))
    address = None if ray == "here" else ray
    return read(Executor, {"kind": "ray", "address": address} | given)
