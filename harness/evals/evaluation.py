"""The evaluation folder: what was asked and answered, what that is worth, and the sums.

It is made in two phases. Generation comes first and is kept in a folder of its own until all of it
is judged, so that a judge that fails, or another judge tomorrow, costs no answer twice.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tasks
from harness.core.errors import UserError
from harness.core.files import (
    file_digest,
    jsonl_bytes,
    parse,
    read_json,
    read_records,
    require_plain,
    write_json,
    write_jsonl,
)
from harness.core.folders import new_folder
from harness.core.outputs import FolderKind, check_place, is_negligible, refuse_inputs
from harness.core.schema import (
    Call,
    Evaluation,
    Item,
    JudgeRef,
    ModelRef,
    Record,
    Reply,
    Sample,
    Score,
    digest,
)
from harness.core.scored import ScoredEvaluation
from harness.engines.resume import PARTS
from harness.engines.text import cut
from harness.gate import claims
from tasks.task import Judge, Task

EVALUATION, ITEMS, SAMPLES, SCORES = (
    "evaluation.json",
    "items.jsonl",
    "samples.jsonl",
    "scores.jsonl",
)
GENERATION = "generation.json"
MAX_BYTES = 8 * 1024**3  # of a file of an evaluation folder; it is held in memory
MAX_LINES = 2_000_000
BATCHES_FOLDER = ".batches"  # evaluations of some items each, while a gate watches
PART_NAME = re.compile(r"[0-9a-f]{64}|[0-9]{1,6}")
WITHOUT_ITEMS = ("0.1.0",)  # versions of this program
PREFERRED_SPLITS = ("test", "gate")


class Generation(Record):
    """What decides the answers of a model to a task: equal ones need not be generated twice."""

    task: str
    split: str
    model: ModelRef
    engine: str
    decoding: dict[str, Any]
    prompt_digest: str
    seed: int
    dataset_digest: str
    code_version: str

    @classmethod
    def of(cls, evaluation: Evaluation) -> Generation:
        """The generation that an evaluation was made from."""
        return cls(**{name: getattr(evaluation, name) for name in cls.model_fields})


class _Generated(Record):
    """What is kept of a generation beside its samples."""

    generation: Generation
    samples_digest: str


class _Watched:
    """A judge, and whether it was asked: a task that scores without it is not judged by it."""

    def __init__(self, judge: Judge) -> None:
        self.id, self.digest = judge.id, judge.digest
        self.asked = False
        self._judge = judge

    def ask(self, calls: Sequence[Call]) -> list[Reply]:
        self.asked = True
        return self._judge.ask(calls)


def build(
    task: Task,
    items: Sequence[Item],
    samples: Sequence[Sample],
    *,
    model: ModelRef,
    engine: str,
    decoding: Mapping[str, Any],
    split: str,
    prompt_digest: str,
    judge: Judge | None = None,
    seed: int = 0,
) -> ScoredEvaluation:
    """Score the samples of `items` in one batch, and compute the metrics.

    A response is scored up to the first stop string of its decoding, or of the task where the
    decoding is not known, as if the engine had stopped there. The sample is kept as it is.

    Raises:
        ValueError: a sample answers none of `items`.
    """
    answered = _answered(items, samples)
    watched = _Watched(judge) if judge is not None else None
    stop = decoding.get("stop", task.generation.get("stop", ()))
    scores = task.score([(item, _stopped(sample, stop)) for item, sample in answered], watched)
    return assemble(
        task,
        items,
        [sample for _, sample in answered],
        scores,
        model=model,
        engine=engine,
        decoding=decoding,
        split=split,
        prompt_digest=prompt_digest,
        judge=JudgeRef(id=watched.id, digest=watched.digest, prompt_digest=task.judge_prompt)
        if watched and watched.asked
        else None,
        estimator=task.estimator,
        seed=seed,
    )


def _stopped(sample: Sample, stop: Sequence[str]) -> Sample:
    """The sample as an engine that knows the stop strings would have given it."""
    response, reason = cut(sample.response, "length", stop)
    if response == sample.response:
        return sample
    known = {} if sample.finish_reason is None else {"finish_reason": reason}
    return sample.model_copy(update={"response": response, **known})


def assemble(
    task: Task,
    items: Sequence[Item],
    samples: Sequence[Sample],
    scores: Sequence[Score],
    *,
    model: ModelRef,
    engine: str,
    decoding: Mapping[str, Any],
    split: str,
    prompt_digest: str,
    judge: JudgeRef | None = None,
    estimator: str | None = None,
    seed: int = 0,
) -> ScoredEvaluation:
    """Sum up samples that are scored already, given by index, then repeat."""
    evaluation = Evaluation(
        task=task.name,
        task_version=task.version,
        split=split,
        model=model,
        engine=engine,
        decoding=dict(decoding),
        judge=judge,
        estimator=estimator,
        dataset_digest=dataset_digest(items),
        prompt_digest=prompt_digest,
        code_version=code_version(),
        seed=seed,
        items=len(items),
        definitions={metric.name: metric for metric in task.metrics},
        metrics=task.aggregate(scores),
        samples_digest=hashlib.sha256(jsonl_bytes(samples)).hexdigest(),
        scores_digest=hashlib.sha256(jsonl_bytes(scores)).hexdigest(),
    )
    return ScoredEvaluation(evaluation, list(scores), list(samples), _by_index(items))


def code_version() -> str:
    """The version of this program, which is a part of what it makes."""
    return importlib.metadata.version("rlrf-harness")


def dataset_digest(items: Sequence[Item]) -> str:
    """Identity of what is asked: the digests of the items, in order of their index."""
    return digest([item.digest for item in _by_index(items)])


def _by_index(items: Sequence[Item]) -> list[Item]:
    return sorted(items, key=lambda item: item.index)


def _answered(items: Sequence[Item], samples: Sequence[Sample]) -> list[tuple[Item, Sample]]:
    known = {item.digest: item for item in items}
    if strangers := {sample.item for sample in samples} - set(known):
        raise ValueError(f"a sample answers item {min(strangers)}, which was not asked")
    ordered = sorted(samples, key=lambda sample: (sample.index, sample.repeat))
    return [(known[sample.item], sample) for sample in ordered]


def choose(
    task: Task,
    split: str | None,
    data: Path | None,
    indices: Sequence[int] | None = None,
    limit: int | None = None,
) -> tuple[str, list[Item], list[int]]:
    """The split to evaluate on, the items to ask, and their positions in the split.

    Without a `split` it is the test split, else the gate split. `indices` name items by
    their `Item.index`; `limit` keeps the first so many.

    Raises:
        UserError: there is no such split or item, or nothing is left to ask.
    """
    if split is None:
        split = next((s for s in PREFERRED_SPLITS if s in task.splits), task.splits[0])
    if split not in task.splits:
        raise UserError(
            f"{task.name} has no split '{split}'; it has {', '.join(task.splits)}. Choose one."
        )
    if limit is not None and limit < 1:
        raise UserError(f"The limit is {limit}; at least one item has to be asked.")
    items = task.items(split, data)
    positions = list(range(len(items)))
    if indices is not None:
        wanted = set(indices)
        if strangers := sorted(wanted - {item.index for item in items}):
            raise UserError(
                f"The {split} split of {task.name} has {len(items)} items and none with index "
                f"{few(strangers)}."
            )
        positions = [i for i in positions if items[i].index in wanted]
    positions = positions[:limit]
    if not positions:
        raise UserError(f"No items of {task.name} ({split}) were chosen; name at least one.")
    return split, [items[i] for i in positions], positions


def few(values: Sequence[object], most: int = 5) -> str:
    """The first of `values`, for a sentence."""
    shown = ", ".join(str(value) for value in values[:most])
    return f"{shown}, ..." if len(values) > most else shown


def check_out(out: Path, names: Iterable[str], reads: Iterable[Path | None] = ()) -> None:
    """See that evaluations of the tasks `names` may be written to `out`/TASK.

    `out` is new, empty, or holds evaluations and nothing else; one of the same task is replaced.

    Raises:
        UserError: it holds other things, is one of `reads`, or cannot be written to.
    """
    real = check_place(out)
    if (real / EVALUATION).exists():
        raise UserError(
            f"{out} is itself an evaluation. Evaluations are written to a folder per task in the "
            "one that --out names: choose another, or move this one into a folder of its task."
        )
    for entry in sorted(real.iterdir()) if real.exists() else ():
        if not _belongs(entry):
            raise UserError(
                f"{out} holds {entry.name}, which is not an evaluation. Nothing was touched. "
                "Choose another folder with --out, or move what is there away."
            )
    reads = list(reads)
    for read in reads:
        if read is not None and read.exists() and read.resolve() == real:
            raise UserError(
                f"{out} is read by this command, so it cannot be written to. Choose another folder "
                "with --out."
            )
    for name in names:
        for folder, kind in (
            (out / name, _kind(name)),
            (_waiting(out / name), _waiting_kind(name)),
        ):
            refuse_inputs(folder, reads)
            if folder.is_symlink():
                raise UserError(f"{folder} is a link: remove it, or name another folder.")
            if folder.exists():
                kind.may_replace(folder)


def _belongs(entry: Path) -> bool:
    """Whether an entry of a folder of evaluations is one, or what is kept beside them."""
    if is_negligible(entry):
        return True
    if not entry.is_dir() or (entry.is_symlink() and entry.name.startswith(".")):
        return False
    if entry.name in (PARTS, BATCHES_FOLDER):
        return all(PART_NAME.fullmatch(e.name) or is_negligible(e) for e in entry.iterdir())
    return (entry / EVALUATION).is_file() or (entry / GENERATION).is_file()


def _kind(task: str) -> FolderKind:
    """The folder of an evaluation of `task`."""
    return FolderKind(
        f"an evaluation of {task}",
        EVALUATION,
        lambda found: (
            {EVALUATION, ITEMS, SAMPLES, SCORES}
            if found.get("task") == task and "scores_digest" in found
            else None
        ),
    )


def _waiting_kind(task: str) -> FolderKind:
    """The folder of answers to `task` that wait to be judged."""

    def written(found: dict[str, Any]) -> set[str] | None:
        generation = found.get("generation")
        # The folder's name says the task, where an earlier version did not.
        is_ours = isinstance(generation, dict) and generation.get("task", task) == task
        return {GENERATION, SAMPLES} if is_ours else None

    return FolderKind(f"answers to {task} that wait to be judged", GENERATION, written)


def save(scored: ScoredEvaluation, folder: Path) -> None:
    """Write an evaluation folder, whole or not at all; one of the same task is replaced.

    Raises:
        UserError: something else is there, or the file system refuses.
    """
    with new_folder(folder, _kind(scored.evaluation.task).may_replace) as new:
        write_jsonl(new / ITEMS, scored.items)
        write_jsonl(new / SAMPLES, scored.samples)
        write_jsonl(new / SCORES, scored.scores)
        write_json(new / EVALUATION, scored.evaluation)
    waiting = _waiting(folder)
    if waiting.is_dir():
        _waiting_kind(scored.evaluation.task).may_replace(waiting)
        shutil.rmtree(waiting, ignore_errors=True)


def save_generated(generation: Generation, samples: Sequence[Sample], folder: Path) -> None:
    """Keep what a model answered until it is scored and `folder` is saved."""
    with new_folder(_waiting(folder), _waiting_kind(generation.task).may_replace) as new:
        written = write_jsonl(new / SAMPLES, samples)
        write_json(new / GENERATION, _Generated(generation=generation, samples_digest=written))


def find_generated(generation: Generation, folder: Path) -> list[Sample] | None:
    """What the model answered before: scored in `folder`, or waiting to be; None if nowhere.

    Weights that are not known by their digest may have changed: their answers are not found; nor
    are those that another version of this program generated.

    Raises:
        UserError: a file is malformed, or one is not what was written.
    """
    if generation.model.digest is None:
        return None
    path = folder / EVALUATION
    if path.exists():
        evaluation = parse(Evaluation, read_json(path), str(path))
        if Generation.of(evaluation) == generation:
            return list(_load_one(folder).samples)
    waiting = _waiting(folder)
    path = waiting / GENERATION
    if path.exists() and _written_by(found := read_json(path)) == generation.code_version:
        kept = parse(_Generated, found, str(path))
        if kept.generation == generation:
            _require_unchanged(waiting / SAMPLES, kept.samples_digest, GENERATION)
            return read_records(waiting / SAMPLES, Sample)
    return None


def _written_by(found: Any) -> Any:
    """The version of this program that wrote a generation."""
    made = found.get("generation") if isinstance(found, dict) else None
    return made.get("code_version") if isinstance(made, dict) else code_version()


def _waiting(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.generated"


def load(folder: Path) -> dict[str, ScoredEvaluation]:
    """Task -> evaluation, from one evaluation folder or a folder that holds one a task.

    Raises:
        UserError: there is none, a file is malformed, or one is not what was written.
    """
    folders = (
        [folder]
        if (folder / EVALUATION).exists()
        else sorted(path.parent for path in folder.glob(f"*/{EVALUATION}"))
    )
    if not folders:
        raise UserError(
            f"There is no evaluation in {folder}: a folder with {EVALUATION} is expected, or one "
            "that holds such folders. `rlrf eval` and `rlrf score` write them with --out."
        )
    found: dict[str, ScoredEvaluation] = {}
    for one in folders:
        scored = _load_one(one)
        if scored.evaluation.task in found:
            raise UserError(
                f"{folder} holds two evaluations of {scored.evaluation.task}; name one of them."
            )
        found[scored.evaluation.task] = scored
    return found


def _load_one(folder: Path) -> ScoredEvaluation:
    path = folder / EVALUATION
    _require_readable(folder)
    evaluation = parse(Evaluation, read_json(path), str(path))
    samples = read_records(folder / SAMPLES, Sample)
    scores = read_records(folder / SCORES, Score)
    _require_unchanged(folder / SAMPLES, evaluation.samples_digest, EVALUATION)
    _require_unchanged(folder / SCORES, evaluation.scores_digest, EVALUATION)
    scored = _with_items(folder, evaluation, samples, scores)
    if problems := claims.mismatched(evaluation, scores, samples, scored.items):
        raise UserError(
            f"{folder} does not hold one evaluation: {problems[0]}. Evaluate again, or take the "
            "folder as it was written."
        )
    return scored


def _require_readable(folder: Path) -> None:
    for name in (EVALUATION, ITEMS, SAMPLES, SCORES):
        if (folder / name).exists() or (folder / name).is_symlink():
            require_plain(folder / name, MAX_BYTES, MAX_LINES)


def _with_items(
    folder: Path, evaluation: Evaluation, samples: list[Sample], scores: list[Score]
) -> ScoredEvaluation:
    if not (folder / ITEMS).exists() and evaluation.code_version in WITHOUT_ITEMS:
        return ScoredEvaluation(evaluation, scores, samples, _items_of(evaluation, samples, folder))
    items = read_records(folder / ITEMS, Item)
    try:
        unchanged = dataset_digest(items) == evaluation.dataset_digest
    except ValueError:  # a NaN has no digest, and was never written
        unchanged = False
    if not unchanged:
        raise _changed(folder / ITEMS, EVALUATION)
    return ScoredEvaluation(evaluation, scores, samples, items)


def _items_of(evaluation: Evaluation, samples: Sequence[Sample], folder: Path) -> list[Item]:
    """The items of an evaluation by a version that kept none, as the task still has them.

    Raises:
        UserError: it has others, or does not have them at hand.
    """
    asked = {sample.index for sample in samples}
    try:
        at_hand = tasks.load(evaluation.task).items(evaluation.split, None)
    except UserError:
        at_hand = []
    items = [item for item in at_hand if item.index in asked]
    if dataset_digest(items) != evaluation.dataset_digest:
        raise UserError(
            f"{folder} was written by version {evaluation.code_version} of this program, which "
            f"kept no items, and those of {evaluation.task} are not at hand as they were. Evaluate "
            f"the model again, or read it with that version: pip install "
            f"'rlrf-harness=={evaluation.code_version}'."
        )
    return _by_index(items)


def _require_unchanged(path: Path, written: str, by: str) -> None:
    if file_digest(path) != written:
        raise _changed(path, by)


def _changed(path: Path, by: str) -> UserError:
    return UserError(
        f"{path} is not what {by} was made from: one of them was changed. "
        "Restore it, or evaluate again."
    )
