"""`rlrf eval`, `rlrf score`, `rlrf tasks`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from harness.core.errors import UserError
from harness.core.log import say, show
from harness.engines import KINDS, Kind
from rlrf.cli.common import FILE, FOLDER, PATH, as_json, print_json

if TYPE_CHECKING:
    from harness.core.schema import Record
    from harness.core.scored import ScoredEvaluation
    from harness.engines.open import EngineSpec
    from rlrf.config import Executor

R = TypeVar("R", bound="Record")


@click.command("eval")
@click.option("--model", required=True, help="Folder, hub id, or what the server calls it.")
@click.option("--tasks", "names", required=True, help="One or more of `rlrf tasks`, by comma.")
@click.option("--judge", "judge_file", type=FILE, help="YAML that says how answers are judged.")
@click.option("--engine", type=click.Choice(KINDS), default="hf", show_default=True)
@click.option("--base-url", help="openai: address of the server, usually ending in /v1.")
@click.option("--api-key-env", help="openai: environment variable that holds the key.")
@click.option(
    "--max-unanswered",
    type=click.FloatRange(0, 1),
    help="openai: share of responses that may stay unanswered.  [default: 0.5]",
)
@click.option("--tokenizer", type=FOLDER, help="Tokenizer folder.  [default: the model's]")
@click.option("--revision", help="Hub revision; openai: your name for the server's weights.")
@click.option("--adapter", type=FOLDER, help="LoRA adapter on the model.")
@click.option("--split", help="Split of the tasks.  [default: the task's own]")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first items.")
@click.option("--data", type=PATH, help="Folder or file of the benchmark's data.")
@click.option("--num-fewshot", type=click.IntRange(min=0), help="Solved examples per prompt.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest response, in tokens.")
@click.option("--temperature", type=click.FloatRange(min=0), help="0 is greedy.")
@click.option("--repeats", type=click.IntRange(min=1), help="Responses per item.")
@click.option("--device", help="cpu or cuda.  [default: cuda if available]")
@click.option("--dtype", help="float32, bfloat16 or float16.  [default: auto]")
@click.option(
    "--max-batch", type=click.IntRange(min=1), help="Responses per batch.  [default: engine's]"
)
@click.option("--ray", help="Ray cluster: auto, host:port, or here to start one.")
@click.option(
    "--engines", type=click.IntRange(min=1), help="--ray: number of engines.  [default: 1]"
)
@click.option("--gpus", type=click.FloatRange(0, 1), help="--ray: GPUs per engine.  [default: 0]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=FOLDER, help="Write evaluations to OUT/TASK, for `gate` and `board`.")
@as_json
def eval_(
    *,
    model: str,
    names: str,
    judge_file: Path | None,
    engine: Kind,
    base_url: str | None,
    api_key_env: str | None,
    max_unanswered: float | None,
    tokenizer: Path | None,
    revision: str | None,
    adapter: Path | None,
    split: str | None,
    limit: int | None,
    data: Path | None,
    num_fewshot: int | None,
    max_tokens: int | None,
    temperature: float | None,
    repeats: int | None,
    device: str | None,
    dtype: str | None,
    max_batch: int | None,
    ray: str | None,
    engines: int | None,
    gpus: float | None,
    seed: int,
    out: Path | None,
    json_: bool,
) -> None:
    """Evaluate a model on tasks.

    All responses are generated first and kept in OUT; then they are scored. Run the same command
    again to resume.

    \b
    rlrf eval --model runs/quickstart/iter_1/train/model --tasks mini_gsm8k --split gate
    rlrf eval --model Qwen/Qwen2.5-0.5B-Instruct --tasks gsm8k --limit 200 --out evaluations/qwen
    rlrf eval --model MODEL --tasks just_eval,factscore --judge judge.yaml --out evaluations/mine
    rlrf eval --engine openai --base-url http://localhost:8000/v1 --model m --tasks mini_gsm8k
    rlrf eval --ray auto --engines 8 --gpus 1 --model MODEL --tasks gsm8k --out evaluations/mine
    """
    import rlrf
    from harness.engines.open import SERVER_OPTIONS, EngineSpec
    from harness.evals.evaluate import EvalOptions

    spec = EngineSpec(
        model,
        kind=engine,
        revision=revision,
        adapter=adapter,
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
        max_batch=max_batch,
        base_url=base_url,
        api_key_env=api_key_env,
        max_unanswered=max_unanswered,
    )
    if ray is None:
        executor = None
        _refuse({"engines": engines, "gpus": gpus}, "without --ray")
    else:
        _refuse(spec.given(*SERVER_OPTIONS, "tokenizer"), "with --ray")
        address = None if ray == "here" else ray
        executor = _executor(spec, {"address": address, "engines": engines, "gpus": gpus})
    options = EvalOptions(
        split=split,
        limit=limit,
        data=data,
        num_fewshot=num_fewshot,
        max_tokens=max_tokens,
        temperature=temperature,
        repeats=repeats,
        seed=seed,
    )
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    scored = rlrf.evaluate(spec, wanted, options, judge=judge_file, executor=executor, out=out)
    _show_evaluations(scored, out, json_)


def _refuse(options: dict[str, Any], where: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')} means nothing {where}; leave it out.")


def _executor(spec: EngineSpec, options: dict[str, Any]) -> Executor:
    """Read the options of --ray, and refuse an engine that cannot run there."""
    from pydantic import ValidationError

    from harness.core.yaml import explain
    from rlrf.config import EngineConfig, Executor

    def read(kind: type[R], options: dict[str, Any]) -> R:
        given = {name: value for name, value in options.items() if value is not None}
        try:
            return kind.model_validate(given)
        except ValidationError as error:
            raise UserError(f"--ray: {explain(error, kind).removeprefix(': ')}") from error

    read(EngineConfig, spec.given("kind", "device", "dtype", "max_batch"))
    return read(Executor, {"kind": "ray"} | options)


@click.command()
@click.argument("task")
@click.argument("responses", type=PATH)
@click.option("--split", help="Split of the task.  [default: the task's own]")
@click.option("--data", type=PATH, help="Folder or file of the benchmark's data.")
@click.option("--judge", "judge_file", type=FILE, help="YAML that says how answers are judged.")
@click.option("--judgments", type=FILE, help='Recorded judge replies, JSONL: {"id", "reply"}.')
@click.option("--facts", type=FILE, help='Verified facts, JSONL: {"id", "response", "facts"}.')
@click.option("--model-id", help="Name of the model that answered.  [default: recorded]")
@click.option("--out", type=FOLDER, help="Write the evaluation to OUT/TASK, for `gate`, `board`.")
@as_json
def score(
    *,
    task: str,
    responses: Path,
    split: str | None,
    data: Path | None,
    judge_file: Path | None,
    judgments: Path | None,
    facts: Path | None,
    model_id: str | None,
    out: Path | None,
    json_: bool,
) -> None:
    """Score saved RESPONSES to TASK; no model is needed.

    RESPONSES is JSONL, one {"id", "response"} per line, where the id is the item's index in its
    split; or the folder of an evaluation, whose responses are scored again. A response is cut at
    the task's first stop string, as during generation.

    \b
    rlrf score gsm8k answers.jsonl --data data/gsm8k
    rlrf score just_eval answers.jsonl --judgments replies.jsonl --out evaluations/mine
    rlrf score just_eval evaluations/mine/just_eval --judge other.yaml --out evaluations/other
    """
    import rlrf
    from harness.evals.score import RecordedReplies
    from harness.judges.config import load_judging

    judging = load_judging(judge_file)
    if judging.judge is not None and judgments:
        raise UserError("A judge and its recorded replies exclude each other: name one of them.")
    scored = rlrf.score(
        judging.task(task),
        responses,
        split=split,
        data=data,
        judge=RecordedReplies(judgments) if judgments else judge_file,
        facts=facts,
        model_id=model_id,
        out=out,
    )
    _show_evaluations({scored.evaluation.task: scored}, out, json_)


@click.command("slices")
@click.argument("evaluation", type=FOLDER)
@click.option("--by", help="The kind of tag.  [default: list the kinds; with --cluster: all items]")
@click.option("--cluster", help="Tag or field that items share, such as passage.")
@click.option("--metrics", help="By comma, or 'all'.  [default: the primary one]")
@as_json
def slices(
    evaluation: Path, by: str | None, cluster: str | None, metrics: str | None, json_: bool
) -> None:
    """Show the metrics of one EVALUATION by topic, rarity, or whatever its items are tagged with.

    Every tag of an item counts. If items share a passage, entity or template, name it with
    --cluster: intervals then allow for it.

    \b
    rlrf slices evaluations/mine/just_eval
    rlrf slices evaluations/mine/just_eval --by topic --metrics overall,depth
    rlrf slices evaluations/mine/factscore --cluster entity
    """
    from harness.evals import evaluation as evaluations
    from harness.render.table import ALL_ITEMS, subgroup_table
    from harness.stats.intervals import aggregate, subgroups

    found = evaluations.load(evaluation)
    if len(found) > 1:
        raise UserError(f"{evaluation} holds evaluations of {', '.join(found)}: name one of them.")
    (scored,) = found.values()
    kinds = sorted({kind for item in scored.items for kind in item.tags})
    if by is None and cluster is None:
        print_json(kinds) if json_ else show("\n".join(kinds) or "The items carry no tags.")
        return
    if by is not None and by not in kinds:
        raise UserError(f"The items carry no tag '{by}'; they have {', '.join(kinds) or 'none'}.")
    known = scored.evaluation.definitions
    if metrics == "all":
        names = list(known)
    elif metrics:
        names = [name.strip() for name in metrics.split(",")]
    else:
        names = [name for name, metric in known.items() if metric.primary]
    if strangers := [name for name in names if name not in known]:
        raise UserError(f"There is no metric '{strangers[0]}'; there are {', '.join(known)}.")
    clusters = _clusters(scored, cluster) if cluster else None
    if by is None:
        results = {ALL_ITEMS: aggregate(scored.scores, known, clusters)}
    else:
        results = subgroups(scored.items, scored.scores, by, known, clusters)
    if json_:
        print_json(
            {
                tag: {name: one[name].model_dump(mode="json") for name in names if name in one}
                for tag, one in results.items()
            }
        )
    else:
        show(subgroup_table(results, names))


def _clusters(scored: ScoredEvaluation, key: str) -> dict[str, int]:
    """Number the cluster of each item, and say where clusters tell nothing."""
    from harness.gate.clusters import number_items

    numbers = number_items(scored.evaluation.task, key, scored.items)
    count = len({*numbers.values()})
    if count == 1:
        say(
            f"All items have one value of '{key}': one cluster shows no spread, so there is no "
            "interval. Name something that divides the items."
        )
    elif count == len(numbers):
        say(f"Each item is alone in its '{key}', so clusters change nothing.")
    return numbers


@click.command("tasks")
@click.option("--path", "path_only", is_flag=True, help="Print the folder for lm_eval.")
@as_json
def tasks_(path_only: bool, json_: bool) -> None:
    """List the benchmarks.

    \b
    rlrf tasks
    lm_eval run --include_path $(rlrf tasks --path) --tasks mini_gsm8k ...
    """
    import tasks
    from harness.render.table import table

    if path_only:
        show(tasks.FOLDER)
        return
    found = [tasks.load(name) for name in tasks.names()]
    if json_:
        print_json(
            [
                {
                    "name": task.name,
                    "version": task.version,
                    "splits": list(task.splits),
                    "metrics": [metric.model_dump(mode="json") for metric in task.metrics],
                }
                for task in found
            ]
        )
        return
    rows = [[task.name, task.primary.name, ", ".join(task.splits), task.version] for task in found]
    show(table([["task", "primary metric", "splits", "version"], *rows]))


def _show_evaluations(scored: dict[str, Any], out: Path | None, json_: bool) -> None:
    from harness.render.table import evaluation_table

    found = [one.evaluation for one in scored.values()]
    if json_:
        print_json([one.model_dump(mode="json") for one in found])
    else:
        show(evaluation_table(found))
    if out is None:
        say("Not kept: name a folder with --out to gate or publish this.")
