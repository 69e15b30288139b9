"""Generate a model's responses to tasks through lm-eval, and score them with the tasks' own code.

lm-eval makes the requests from each task's YAML, so that the numbers equal those of the stock
command. Scoring follows in one batch, after all generation.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tasks as benchmarks
from harness.core.errors import UserError
from harness.core.folders import sole_user
from harness.core.log import say
from harness.core.progress import track
from harness.core.schema import Item, ModelRef, Sample, check_name, digest
from harness.core.scored import ScoredEvaluation
from harness.engines import Completion, Engine
from harness.engines.resume import PARTS
from harness.evals import evaluation
from harness.evals.scoring import Generation, code_version, dataset_digest, score_samples
from harness.evals.stock_tasks import (
    FEWSHOT_SEED,
    StockTask,
    find_benchmarks,
    quiet_lm_eval,
    require_known,
)
from tasks.hooks import no_yaml
from tasks.task import Judge, Task

if TYPE_CHECKING:
    from harness.evals.lm import EngineLM

PREFERRED_SPLITS = ("test", "gate")


@dataclass(frozen=True)
class EvalOptions:
    """Choose the items of each task and how to respond; None leaves a setting to the task.

    Attributes:
        split: split of each task; default: the test split, else the gate split.
        indices: task -> `Item.index` of the items to ask; default: all items.
        limit: number of items per task, from the first.
        data: folder or file of the benchmarks' data.
        num_fewshot: solved examples before each question.
        max_tokens: longest response, in tokens.
        temperature: 0 is greedy.
        repeats: responses per item.
        seed: seed of sampling.
        include_path: folders of the user's own benchmarks.
        apply_chat_template: render prompts by the model's chat template; default: for benchmarks
            of this package if the model has one, and not for lm-eval's, as `lm_eval run`.
        fewshot_as_multiturn: show solved examples as turns; default: with a chat template.
        system_instruction: system message, or text before the prompt.
        confirm_run_unsafe_code: run code that the model writes, for tasks that ask for it.
    """

    split: str | None = None
    indices: Mapping[str, Sequence[int]] = field(default_factory=dict)
    limit: int | None = None
    data: Path | None = None
    num_fewshot: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    repeats: int | None = None
    seed: int = 0
    include_path: Sequence[Path] = ()
    apply_chat_template: bool | None = None
    fewshot_as_multiturn: bool | None = None
    system_instruction: str | None = None
    confirm_run_unsafe_code: bool = False

    @property
    def decoding(self) -> dict[str, Any]:
        """Return lm-eval's generation options that replace those of a task."""
        options: dict[str, Any] = {}
        if self.max_tokens is not None:
            options["max_gen_toks"] = self.max_tokens
        if (temperature := self.temperature) is not None:
            options |= {"temperature": temperature, "do_sample": temperature > 0}
        return options


def evaluate(
    engine: Engine,
    tasks: Sequence[str | Task | StockTask],
    options: EvalOptions | None = None,
    *,
    judge: Judge | None = None,
    out: Path | None = None,
    reuse: Path | None = None,
) -> dict[str, ScoredEvaluation]:
    """Evaluate the engine's model; return task -> evaluation, written to `out`/TASK if given.

    A task is given by name (see `find_benchmarks`), or loaded. `judge` grades what needs a judge.

    Nothing is scored before everything is generated, and every response is kept in `out` as soon
    as it is generated. Call again with the same arguments, or with another judge, to resume:
    nothing is generated twice. `reuse` is a folder of earlier evaluations, whose samples are
    scored again if they are the ones that would be generated.

    Raises:
        UserError: a task, split, item or option does not exist; the engine lacks an ability;
            `out` holds anything but evaluations, or another process works there.
    """
    from harness.evals.lm import EngineLM
    from harness.evals.stock_runs import StockRun

    options = options or EvalOptions()
    by_name = {task.name: task for task in find_benchmarks(tasks, options.include_path)}
    if out is not None:
        evaluation.check_out(out, by_name)
    if not by_name:
        raise UserError(f"No tasks were named; choose from {', '.join(benchmarks.names())}.")
    stock = [task for task in by_name.values() if isinstance(task, StockTask)]
    _require_used(options, by_name, stock)
    check_name(engine.model_id, "The name of the model")
    lm = EngineLM(engine, seed=options.seed, kept=out / PARTS if out else None)
    with benchmarks.including(options.include_path), quiet_lm_eval():
        runs = _task_runs([t for t in by_name.values() if isinstance(t, Task)], options, lm)
        stock_runs = [StockRun(task, options, lm) for task in stock]
    with sole_user(out) if out else contextlib.nullcontext():
        if folder := out or reuse:
            for run in runs:
                run.reuse_samples(folder / run.task.name)
            for stock_run in stock_runs:
                stock_run.reuse(folder / stock_run.task.name)
        _generate([run for run in runs if not run.samples], lm, out)
        results = {}
        for stock_run in stock_runs:
            scored = stock_run.scored
            if scored is None:
                stock_run.answer()
                scored = stock_run.score()
            results[stock_run.task.name] = scored
            if out is not None:
                evaluation.save(scored, out / stock_run.task.name)
        if out is not None:
            shutil.rmtree(out / PARTS, ignore_errors=True)
        for run in runs:
            scored = score_samples(run.task, run.items, run.samples, run.generation, judge)
            results[run.task.name] = scored
            if out is not None:
                evaluation.save(scored, out / run.task.name)
    return {name: results[name] for name in by_name}


def _require_used(options: EvalOptions, names: Collection[str], stock: Sequence[StockTask]) -> None:
    """Refuse items of tasks that are not evaluated, and data that none of the tasks reads."""
    if options.data is not None and len(stock) == len(names):
        raise UserError(
            f"{stock[0].name} is a task of lm-eval, whose YAML names its data. Leave out the data."
        )
    known = {*names, *(member for task in stock for member in task.members)}
    if unknown := sorted(options.indices.keys() - known):
        raise UserError(f"Items of {unknown[0]} are named, which is not evaluated.")


def _task_runs(tasks: Sequence[Task], options: EvalOptions, lm: EngineLM) -> list[_TaskRun]:
    from lm_eval.tasks import TaskManager

    if not tasks:
        return []
    manager = TaskManager(
        include_path=[str(folder) for folder in benchmarks.folders()],
        include_defaults=False,
        metadata={"data": str(options.data)} if options.data else None,
    )
    return [_TaskRun(task, options, manager, lm) for task in tasks]


def _generate(runs: Sequence[_TaskRun], lm: EngineLM, out: Path | None) -> None:
    """Generate the samples of all `runs` together, and keep them in `out`."""
    requests = [request for run in runs for request in run.requests]
    repeats = [run.repeats for run in runs for _ in run.requests]
    if requests:
        names = ", ".join(run.task.name for run in runs)
        with track(f"evaluate {names}", sum(repeats), "responses") as lm.on_done:
            completions = iter(lm.complete(requests, repeats))
        lm.on_done = None
    for run in runs:
        run.collect_samples([next(completions) for _ in run.requests])
        if out:
            evaluation.save_generated(run.generation, run.samples, out / run.task.name)


class _TaskRun:
    """One task of an evaluation: its requests, its generation, and its samples once they exist."""

    def __init__(self, task: Task, options: EvalOptions, manager: Any, lm: EngineLM) -> None:
        from harness.evals.lm import has_chat_template, to_sampling

        self.task = task
        self.samples: list[Sample] = []
        split, self.items, positions = choose_items(task, options)
        lm_task = _lm_task(manager, task.name, split, options)
        chat = options.apply_chat_template
        if chat is None:
            chat = has_chat_template(lm.engine)
        multiturn = options.fewshot_as_multiturn
        # lm-eval's own `samples` searches the whole split, and all of `samples` for each document.
        lm_task.dataset[split] = lm_task.dataset[split].select(positions)
        lm_task.build_all_requests(
            system_instruction=options.system_instruction,
            apply_chat_template=chat,
            fewshot_as_multiturn=True if multiturn is None else multiturn,
            chat_template=lm.apply_chat_template if chat else None,
            tokenizer_name=lm.tokenizer_name,
        )
        self.requests: list[Any] = lm_task.instances  # one per item, in the same order
        self.repeats: int = lm_task.config.repeats
        decoding = to_sampling(lm_task.config.generation_kwargs, options.seed).to_dict()
        del decoding["seed"]
        self.generation = Generation(
            task=task.name,
            split=split,
            model=ModelRef(id=lm.engine.model_id, digest=lm.engine.model_digest),
            engine=lm.engine.name,
            decoding=decoding | {"n": self.repeats},
            prompt_digest=_prompt_digest(lm_task, chat, options),
            seed=options.seed,
            dataset_digest=dataset_digest(self.items),
            code_version=code_version(),
        )

    def reuse_samples(self, folder: Path) -> None:
        """Take the samples of an equal generation from `folder`, if there are any.

        Their prompts have to be equal, too: the code that renders prompts may have changed, and
        is not part of a generation's identity.
        """
        name = self.task.name
        known = evaluation.find_generated(self.generation, folder) or []
        prompts = {i.index: r.args[0] for i, r in zip(self.items, self.requests, strict=True)}
        if any(sample.prompt != prompts.get(sample.index) for sample in known):
            say(f"evaluate {name}: its prompts have changed, so it is answered again")
        elif known:
            say(f"evaluate {name}: answered before")
            self.samples = known

    def collect_samples(self, completions: Sequence[Sequence[Completion]]) -> None:
        """Make samples of the completions of each item."""
        self.samples = [
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
            for item, request, answers in zip(self.items, self.requests, completions, strict=True)
            for repeat, completion in enumerate(answers)
        ]


def choose_items(task: Task, options: EvalOptions) -> tuple[str, list[Item], list[int]]:
    """Choose the split to evaluate on, the items to ask, and their positions in the split.

    Raises:
        UserError: there is no such split or item, or nothing is left to ask.
    """
    split, limit = options.split, options.limit
    if split is None:
        split = next((s for s in PREFERRED_SPLITS if s in task.splits), task.splits[0])
    if split not in task.splits:
        raise UserError(
            f"{task.name} has no split '{split}'; it has {', '.join(task.splits)}. Choose one."
        )
    if limit is not None and limit < 1:
        raise UserError(f"The limit is {limit}; at least one item has to be asked.")
    items = task.items(split, options.data)
    positions = list(range(len(items)))
    if (indices := options.indices.get(task.name)) is not None:
        wanted = set(indices)
        require_known(f"The {split} split of {task.name}", wanted, {i.index for i in items})
        positions = [i for i in positions if items[i].index in wanted]
    positions = positions[:limit]
    if not positions:
        raise UserError(f"No items of {task.name} ({split}) were chosen; name at least one.")
    return split, [items[i] for i in positions], positions


def _lm_task(manager: Any, name: str, split: str, options: EvalOptions) -> Any:
    """Load the lm-eval task `name`, set to the split and the options."""
    if name not in manager.all_subtasks:
        raise no_yaml(name, benchmarks.folder_of(name))
    task = manager.load(name)["tasks"][name]
    if task.OUTPUT_TYPE != "generate_until":
        raise UserError(f"{name} asks for {task.OUTPUT_TYPE}; only generated answers are scored.")
    task.set_config("test_split", split)
    if options.num_fewshot is not None:
        if options.num_fewshot and not (task.fewshot_cfg.split or task.fewshot_cfg.samples):
            raise UserError(f"{name} has no examples to show; leave num_fewshot at 0.")
        task.set_config("num_fewshot", options.num_fewshot)
    task.set_fewshot_seed(FEWSHOT_SEED)
    if options.decoding:
        task.set_config("generation_kwargs", options.decoding, update=True)
    if options.repeats is not None:
        task.config.repeats = options.repeats
    if task.config.repeats > 1 and not task.config.generation_kwargs.get("do_sample", True):
        raise UserError(
            f"{name} is decoded greedily: {task.config.repeats} responses per item would be "
            "equal. Set a temperature above 0."
        )
    return task


def _prompt_digest(task: Any, chat: bool, options: EvalOptions) -> str:
    """Identify how `task` makes prompts; the model's chat template belongs to the model."""
    config = task.config
    made = {
        "doc_to_text": config.doc_to_text,
        "description": config.description,
        "gen_prefix": config.gen_prefix,
        "chat": chat,
        "num_fewshot": config.num_fewshot or 0,
    }
    if options.system_instruction is not None:
        made["system_instruction"] = options.system_instruction
    if config.num_fewshot:
        if options.fewshot_as_multiturn is not None:
            made["multiturn"] = options.fewshot_as_multiturn
        made |= {
            "examples": list(task.sampler.df),
            "sampler": [type(task.sampler).__name__, FEWSHOT_SEED],
            "doc_to_target": config.doc_to_target,
            "delimiters": [config.target_delimiter, config.fewshot_delimiter],
        }
    return digest({k: v.__qualname__ if callable(v) else v for k, v in made.items()})
