"""Ask a model the tasks, through lm-eval, and score what it answers with their plugins.

lm-eval makes the prompts and requests from the tasks' own YAML, so that the numbers are those of
the stock command; the plugins score in one batch, after all generation.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tasks as benchmarks
from harness.core.errors import UserError
from harness.core.folders import sole_user
from harness.core.log import say
from harness.core.progress import track
from harness.core.schema import Item, ModelRef, Sample, check_name, digest
from harness.core.scored import ScoredEvaluation
from harness.engines import Engine
from harness.engines.resume import PARTS, ResumableEngine
from harness.evals import evaluation
from harness.evals.evaluation import Generation
from tasks.task import Judge, Task

FEWSHOT_SEED = 1234  # lm-eval's own


def evaluate(
    engine: Engine,
    tasks: Sequence[str | Task],
    *,
    split: str | None = None,
    indices: Mapping[str, Sequence[int]] | None = None,
    limit: int | None = None,
    data: Path | None = None,
    num_fewshot: int | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    repeats: int | None = None,
    judge: Judge | None = None,
    out: Path | None = None,
    answered: Path | None = None,
    seed: int = 0,
) -> dict[str, ScoredEvaluation]:
    """Task -> evaluation of the engine's model; written to `out`/TASK if `out` is given.

    Without a `split` it is a task's test split, else its gate split. `indices` maps tasks to
    the `Item.index` of the items to ask; `limit` keeps the first so many of a task. `data` is
    where the benchmarks' data lie; `num_fewshot`, `max_tokens`, `temperature` and `repeats`
    (answers an item) override the task's own, and `judge` grades what needs a judge. A task is
    given by name, or as a `Task` with its own way of scoring.

    `answered` is a folder of evaluations, whose answers are scored anew where they are those that
    would be generated.

    Nothing is judged before all is generated, and what is generated is kept in `out` at once: the
    same call again generates nothing twice, even if it was killed, a judge failed, or another is
    to judge.

    Raises:
        UserError: a task, split, item or option that does not exist; what the engine cannot do;
            `out` holds what is not an evaluation, or another process works there.
    """
    from lm_eval.tasks import TaskManager

    from harness.evals.lm import EngineLM, has_chat_template, to_sampling

    named = [benchmarks.load(task) if isinstance(task, str) else task for task in tasks]
    plugins = {task.name: task for task in named}
    if out is not None:
        evaluation.check_out(out, plugins)
    if not plugins:
        raise UserError(f"No tasks were named; choose from {', '.join(benchmarks.names())}.")
    if strangers := sorted(set(indices or {}) - set(plugins)):
        raise UserError(f"Items of {strangers[0]} are named, which is not evaluated.")
    chosen = {
        name: evaluation.choose(plugin, split, data, (indices or {}).get(name), limit)
        for name, plugin in plugins.items()
    }
    lm = EngineLM(ResumableEngine(engine, out / PARTS) if out else engine, seed=seed)
    chat = has_chat_template(engine)
    with _quiet():
        manager = TaskManager(
            include_path=str(benchmarks.FOLDER),
            include_defaults=False,
            metadata={"data": str(data)} if data else None,
        )
        built = {}
        for name, (used, _, positions) in chosen.items():
            built[name] = _task(manager, name, used, num_fewshot)
            _decode(built[name], max_tokens, temperature, repeats)
            # lm-eval's own `samples` looks through the whole split, and through them for each doc.
            built[name].dataset[used] = built[name].dataset[used].select(positions)
            built[name].build_all_requests(
                apply_chat_template=chat,
                fewshot_as_multiturn=True,
                chat_template=lm.apply_chat_template if chat else None,
                tokenizer_name=lm.tokenizer_name,
            )
    model_id = check_name(engine.model_id, "The name of the model")
    generations, prompts = {}, {}
    for name, (used, items, _) in chosen.items():
        requests = built[name].instances
        prompts[name] = {
            item.index: request.args[0] for item, request in zip(items, requests, strict=True)
        }
        sampling = to_sampling(built[name].config.generation_kwargs, seed).to_dict()
        generations[name] = Generation(
            task=name,
            split=used,
            model=ModelRef(id=model_id, digest=engine.model_digest),
            engine=engine.name,
            decoding={k: v for k, v in sampling.items() if k != "seed"}
            | {"n": built[name].config.repeats},
            prompt_digest=_prompt_digest(built[name], chat),
            seed=seed,
            dataset_digest=evaluation.dataset_digest(items),
            code_version=evaluation.code_version(),
        )
    with sole_user(out) if out else contextlib.nullcontext():
        answers = {
            name: known
            for name, generation in generations.items()
            if (kept := out or answered)
            and (known := _answered_before(generation, kept / name, prompts[name]))
        }
        for name in answers:
            say(f"evaluate {name}: answered before")
        asked = [name for name in plugins if name not in answers]
        requests = [
            request
            for name in asked
            for request in built[name].instances * built[name].config.repeats
        ]
        if requests:
            with track(f"evaluate {', '.join(asked)}", len(requests), "responses") as lm.on_done:
                lm.generate_until(requests)
        for name in asked:
            answers[name] = _samples(chosen[name][1], built[name].instances, lm.completions)
            if out:
                evaluation.save_generated(generations[name], answers[name], out / name)
        if out:
            shutil.rmtree(out / PARTS, ignore_errors=True)
        results = {}
        for name, generation in generations.items():
            results[name] = evaluation.build(
                plugins[name],
                chosen[name][1],
                answers[name],
                model=generation.model,
                engine=generation.engine,
                decoding=generation.decoding,
                split=generation.split,
                prompt_digest=generation.prompt_digest,
                judge=judge,
                seed=seed,
            )
            if out is not None:
                evaluation.save(results[name], out / name)
    return results


def _answered_before(
    generation: Generation, folder: Path, prompts: Mapping[int, str]
) -> list[Sample]:
    """What was generated before for `prompts` (index of the item -> prompt); else nothing.

    The code that renders prompts may have changed, which the identity of a generation does not
    show.
    """
    known = evaluation.find_generated(generation, folder) or []
    if any(sample.prompt != prompts.get(sample.index) for sample in known):
        say(f"evaluate {generation.task}: its prompts have changed, so it is answered again")
        return []
    return known


def _task(manager: Any, name: str, split: str, num_fewshot: int | None) -> Any:
    """The lm-eval task `name`, set to ask `split`."""
    if name not in manager.all_subtasks:
        raise UserError(
            f"lm-eval finds no task '{name}' in {benchmarks.FOLDER}: its YAML is missing or "
            f"broken. `lm_eval validate --include_path {benchmarks.FOLDER} --tasks {name}` says "
            "more."
        )
    task = manager.load(name)["tasks"][name]
    if task.OUTPUT_TYPE != "generate_until":
        raise UserError(f"{name} asks for {task.OUTPUT_TYPE}; only generated answers are scored.")
    task.set_config("test_split", split)
    if num_fewshot is not None:
        if num_fewshot and not (task.fewshot_cfg.split or task.fewshot_cfg.samples):
            raise UserError(f"{name} has no examples to show; leave num_fewshot at 0.")
        task.set_config("num_fewshot", num_fewshot)
    task.set_fewshot_seed(FEWSHOT_SEED)
    return task


def _decode(
    task: Any, max_tokens: int | None, temperature: float | None, repeats: int | None
) -> None:
    """Set how `task` is answered, where that is given."""
    options: dict[str, Any] = {}
    if max_tokens is not None:
        options["max_gen_toks"] = max_tokens
    if temperature is not None:
        options |= {"temperature": temperature, "do_sample": temperature > 0}
    if options:
        task.set_config("generation_kwargs", options, update=True)
    if repeats is not None:
        task.config.repeats = repeats
    if task.config.repeats > 1 and not task.config.generation_kwargs.get("do_sample", True):
        raise UserError(
            f"{task.config.task} is answered greedily: {task.config.repeats} answers to an item "
            "would be equal. Set a temperature above 0."
        )


def _samples(
    items: Sequence[Item], requests: Sequence[Any], completions: Mapping[tuple[str, int], Any]
) -> list[Sample]:
    """What was generated, as records; requests and items are in the same order."""
    return [
        Sample(
            task=item.task,
            item=item.digest,
            index=item.index,
            repeat=repeat,
            prompt=request.args[0],
            response=completion.text,
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            unanswered=completion.unanswered,
        )
        for item, request in zip(items, requests, strict=True)
        for repeat, completion in enumerate(completions[request.task_name, request.doc_id])
    ]


def _prompt_digest(task: Any, chat: bool) -> str:
    """How `task` makes a prompt. The model's own chat template is a part of the model."""
    config = task.config
    made = {
        "doc_to_text": config.doc_to_text,
        "description": config.description,
        "gen_prefix": config.gen_prefix,
        "chat": chat,
        "num_fewshot": config.num_fewshot or 0,
    }
    if config.num_fewshot:
        made |= {
            "examples": list(task.sampler.df),
            "sampler": [type(task.sampler).__name__, FEWSHOT_SEED],
            "doc_to_target": config.doc_to_target,
            "delimiters": [config.target_delimiter, config.fewshot_delimiter],
        }
    return digest({k: v.__qualname__ if callable(v) else v for k, v in made.items()})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's chatter and bars, which are about its own stages."""
    import lm_eval.api.task as stages

    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, stages.tqdm
    logger.setLevel(logging.ERROR)
    stages.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        stages.tqdm = bar
