"""The functions of `rlrf` that work with models: evaluate, score and train."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import UserError
from harness.core.scored import ScoredEvaluation
from harness.engines import Engine
from harness.engines.model_folder import Checkpoint, find
from harness.engines.open import EngineLoader, EngineSpec, open_engine
from harness.evals import evaluation
from harness.evals.evaluate import EvalOptions
from harness.evals.evaluate import evaluate as evaluate_engine
from harness.evals.score import RecordedReplies
from harness.evals.score import score as score_responses
from harness.evals.stock_tasks import StockTask, find_benchmarks
from harness.judges.config import load_judging
from rlrf import loop
from rlrf.config import Config, Executor, load
from rlrf.result import RunResult
from tasks import including, names
from tasks.task import Task


def evaluate(
    model: str | Path | EngineSpec | Engine,
    tasks: str | Sequence[str | Task | StockTask],
    options: EvalOptions | None = None,
    *,
    judge: str | Path | None = None,
    executor: Executor | None = None,
    out: str | Path | None = None,
) -> dict[str, ScoredEvaluation]:
    """Evaluate a model on tasks: generate all responses, then score them.

    Args:
        model: folder or hub id of a model, which `transformers` runs; a `rlrf.EngineSpec`, for
            vLLM, a server or other options; or an open engine.
        tasks: benchmarks, by name or as a `Task`: those that `rlrf tasks` lists, and any task,
            group or tag of lm-eval.
        options: split, items, decoding and data; None leaves all of them to the tasks.
        judge: YAML file that says how responses are judged.
        executor: where engines run, a `rlrf.config.Executor`; default: in this process.
        out: write evaluations to OUT/TASK. Responses are kept there as soon as they are
            generated, so a repeated call resumes.

    Returns:
        Task -> evaluation, with its samples and scores.

    Raises:
        UserError: a task, split or option does not exist, the model cannot be loaded, or `out`
            holds other files.

    Examples:
        >>> options = rlrf.EvalOptions(split="gate", limit=100)
        >>> evaluated = rlrf.evaluate("Qwen/Qwen2.5-0.5B-Instruct", ["mini_gsm8k"], options)
        >>> evaluated["mini_gsm8k"].evaluation.metrics["accuracy"].mean
        0.34
    """
    judging = load_judging(_path(judge))
    named = [tasks] if isinstance(tasks, str) else tasks
    with including(options.include_path if options else ()):
        ours = names()
        loaded = find_benchmarks([judging.task(t) if t in ours else t for t in named])
    spec = EngineSpec(model) if isinstance(model, str | Path) else model
    if out is not None:
        reads = [_path(judge), options.data if options else None]
        if isinstance(spec, EngineSpec):
            reads += [Path(spec.model), spec.adapter, spec.tokenizer]
        evaluation.check_out(Path(out), [task.name for task in loaded], reads)
    with contextlib.ExitStack() as opened:
        loader = None
        if executor is not None and isinstance(spec, EngineSpec):
            defaults = EngineSpec(**spec.given("kind", "device", "dtype", "max_batch"))
            loader = EngineLoader(defaults, executor.cluster_options())
            opened.callback(loader.close)
        open_judge = loader.open_judge if loader else None
        opened_judge = opened.enter_context(judging.open(open_engine=open_judge))
        engine = _open_engine(spec, loader) if isinstance(spec, EngineSpec) else spec
        return evaluate_engine(engine, loaded, options, judge=opened_judge, out=_path(out))


def _open_engine(spec: EngineSpec, loader: EngineLoader | None) -> Engine:
    if loader is None:
        return open_engine(spec)
    folder = find(str(spec.model), spec.revision)
    return loader.load(Checkpoint(str(spec.model), folder, spec.adapter))


def score(
    task: str | Task,
    responses: str | Path,
    *,
    split: str | None = None,
    data: str | Path | None = None,
    judge: str | Path | RecordedReplies | None = None,
    facts: str | Path | None = None,
    model_id: str | None = None,
    out: str | Path | None = None,
) -> ScoredEvaluation:
    """Score saved responses to a task; no model is needed.

    Args:
        task: a benchmark, by name or as a `Task`.
        responses: JSONL file of {"id", "response"}, one line per item of the split, where the id
            is the item's index; or the folder of an evaluation, whose responses are scored again.
        split: split of the task; default: the test split, else the gate split.
        data: folder or file of the benchmark's data.
        judge: YAML file that says how responses are judged, or recorded replies of a judge.
        facts: JSONL file of verified facts, which replace FActScore's decomposer and verifier.
        model_id: name of the model that responded.
        out: write the evaluation to OUT/TASK.

    Returns:
        The evaluation, with its samples and scores.

    Raises:
        UserError: there is no such task or split, a line is malformed, an id is unknown, repeated
            or missing, judge and facts are both given, or `out` holds other files.

    Examples:
        >>> scored = rlrf.score("mini_gsm8k", "responses.jsonl", split="gate")
        >>> scored.evaluation.metrics["accuracy"].mean
        0.58
    """
    replies, file = (judge, None) if isinstance(judge, RecordedReplies) else (None, _path(judge))
    judging = load_judging(file)
    with judging.open() as opened:
        return score_responses(
            task if isinstance(task, Task) else judging.task(task),
            Path(responses),
            split=split,
            data=_path(data),
            judge=replies or opened,
            facts=_path(facts),
            model_id=model_id,
            out=_path(out),
        )


def train(
    config: Config | str | Path,
    out: str | Path | None = None,
    *,
    fresh: bool = False,
    limit: int | None = None,
) -> RunResult:
    """Train a model by a configuration, gate every candidate, and record the run.

    Args:
        config: a configuration file, or a `rlrf.config.Config`.
        out: folder of the run; a run that exists there is resumed. Default for a file:
            runs/NAME-OF-CONFIG.
        fresh: delete the run in `out` and start over.
        limit: make it a dry run: one iteration on at most so many prompts and items per task.

    Returns:
        The result: `incumbent` names the promoted model, `weights` and `adapter` its folders,
        `iterations` the outcome of each candidate and `sealed` every model on the sealed split.

    Raises:
        UserError: the configuration, a model or the folder cannot be used.

    Examples:
        >>> result = rlrf.train("configs/cpu.yaml")
        >>> result.incumbent
        'M2'
    """
    if isinstance(config, Config):
        if out is None:
            raise UserError("A configuration without a file needs a folder for its run: give out.")
    else:
        name = Path(config).stem
        out = out or Path("runs") / (name if limit is None else f"{name}-limit")
        config = load(Path(config))
    if limit is not None:
        config = config.limited(limit)
    return loop.train(config, Path(out), fresh=fresh)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
