"""Save and load evaluation folders: items, samples, scores, and the metrics computed from them.

Evaluation has two phases. Generated samples are kept in a folder of their own until all of them
are scored, so that neither a failing judge nor a second judge makes the model respond again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tasks
from harness.core.errors import UserError
from harness.core.files import (
    file_digest,
    parse,
    read_json,
    read_records,
    require_plain,
    write_json,
    write_jsonl,
)
from harness.core.folders import new_folder
from harness.core.outputs import FolderKind, check_place, is_negligible, refuse_inputs
from harness.core.schema import Evaluation, Item, Record, Sample, Score
from harness.core.scored import ScoredEvaluation
from harness.engines.resume import PARTS
from harness.evals.scoring import Generation, code_version, dataset_digest
from harness.gate import claims

EVALUATION, ITEMS, SAMPLES, SCORES = (
    "evaluation.json",
    "items.jsonl",
    "samples.jsonl",
    "scores.jsonl",
)
GENERATION = "generation.json"
MAX_BYTES = 8 * 1024**3  # per file of an evaluation folder; files are held in memory
MAX_LINES = 2_000_000
BATCHES_FOLDER = ".batches"  # evaluations of a few items each, while a sequential gate runs
PART_NAME = re.compile(r"[0-9a-f]{64}|[0-9]{1,6}")
VERSIONS_WITHOUT_ITEMS = ("0.1.0",)


class _Generated(Record):
    """The record next to samples that wait to be scored."""

    generation: Generation
    samples_digest: str


def check_out(out: Path, names: Iterable[str], reads: Iterable[Path | None] = ()) -> None:
    """Refuse an `out` that evaluations of the tasks `names` cannot be written to.

    `out` has to be new, empty, or hold nothing but evaluations; one of the same task is replaced.

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
    """Tell whether an entry of a folder of evaluations is an evaluation, or was kept for one."""
    if is_negligible(entry):
        return True
    if not entry.is_dir() or (entry.is_symlink() and entry.name.startswith(".")):
        return False
    if entry.name in (PARTS, BATCHES_FOLDER):
        return all(PART_NAME.fullmatch(e.name) or is_negligible(e) for e in entry.iterdir())
    return (entry / EVALUATION).is_file() or (entry / GENERATION).is_file()


def _kind(task: str) -> FolderKind:
    """Recognise the folder of an evaluation of `task`."""

    def files(record: dict[str, Any]) -> set[str] | None:
        is_ours = record.get("task") == task and "scores_digest" in record
        return {EVALUATION, ITEMS, SAMPLES, SCORES} if is_ours else None

    return FolderKind(f"an evaluation of {task}", EVALUATION, files)


def _waiting_kind(task: str) -> FolderKind:
    """Recognise the folder of samples of `task` that wait to be scored."""

    def files(record: dict[str, Any]) -> set[str] | None:
        generation = record.get("generation")
        # Early versions did not record the task, which the folder's name tells.
        is_ours = isinstance(generation, dict) and generation.get("task", task) == task
        return {GENERATION, SAMPLES} if is_ours else None

    return FolderKind(f"answers to {task} that wait to be judged", GENERATION, files)


def save(scored: ScoredEvaluation, folder: Path) -> None:
    """Write an evaluation folder atomically; an evaluation of the same task is replaced.

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
    """Keep samples next to `folder` until they are scored and `folder` is saved."""
    with new_folder(_waiting(folder), _waiting_kind(generation.task).may_replace) as new:
        written = write_jsonl(new / SAMPLES, samples)
        write_json(new / GENERATION, _Generated(generation=generation, samples_digest=written))


def find_equal(generation: Generation, folder: Path) -> ScoredEvaluation | None:
    """Find the evaluation of an equal generation in `folder`; None as for `find_generated`.

    Raises:
        UserError: a file is malformed, or was changed after it was written.
    """
    path = folder / EVALUATION
    if generation.model.digest is None or not path.exists():
        return None
    made = parse(Evaluation, read_json(path), str(path))
    return _load_one(folder) if Generation.of(made) == generation else None


def find_generated(generation: Generation, folder: Path) -> list[Sample] | None:
    """Find the samples of an equal generation, scored in `folder` or waiting next to it.

    None if there are none, if another version of this program generated them, or if the digest of
    the model's weights is not known: the weights may have changed.

    Raises:
        UserError: a file is malformed, or was changed after it was written.
    """
    if generation.model.digest is None:
        return None
    if scored := find_equal(generation, folder):
        return list(scored.samples)
    waiting = _waiting(folder)
    path = waiting / GENERATION
    if path.exists() and _written_by(record := read_json(path)) == generation.code_version:
        kept = parse(_Generated, record, str(path))
        if kept.generation == generation:
            _require_unchanged(waiting / SAMPLES, kept.samples_digest, GENERATION)
            return read_records(waiting / SAMPLES, Sample)
    return None


def _written_by(record: Any) -> Any:
    """Return the version of this program that wrote the record of a generation."""
    generation = record.get("generation") if isinstance(record, dict) else None
    return generation.get("code_version") if isinstance(generation, dict) else code_version()


def _waiting(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.generated"


def load(folder: Path) -> dict[str, ScoredEvaluation]:
    """Load evaluations by task, from an evaluation folder or a folder that holds one per task.

    Raises:
        UserError: there is none, a file is malformed, or was changed after it was written.
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
    evaluations: dict[str, ScoredEvaluation] = {}
    for path in folders:
        scored = _load_one(path)
        if scored.evaluation.task in evaluations:
            raise UserError(
                f"{folder} holds two evaluations of {scored.evaluation.task}; name one of them."
            )
        evaluations[scored.evaluation.task] = scored
    return evaluations


def load_single(folder: Path) -> ScoredEvaluation:
    """Load the evaluation of a folder that holds only one.

    Raises:
        UserError: as `load`, or the folder holds several.
    """
    evaluations = load(folder)
    if len(evaluations) > 1:
        tasks = ", ".join(evaluations)
        raise UserError(f"{folder} holds evaluations of {tasks}: name one of them.")
    return next(iter(evaluations.values()))


def _load_one(folder: Path) -> ScoredEvaluation:
    for name in (EVALUATION, ITEMS, SAMPLES, SCORES):
        if (folder / name).exists() or (folder / name).is_symlink():
            require_plain(folder / name, MAX_BYTES, MAX_LINES)
    path = folder / EVALUATION
    evaluation = parse(Evaluation, read_json(path), str(path))
    samples = read_records(folder / SAMPLES, Sample)
    scores = read_records(folder / SCORES, Score)
    _require_unchanged(folder / SAMPLES, evaluation.samples_digest, EVALUATION)
    _require_unchanged(folder / SCORES, evaluation.scores_digest, EVALUATION)
    items = _load_items(folder, evaluation, samples)
    if problems := claims.mismatched(evaluation, scores, samples, items):
        raise UserError(
            f"{folder} does not hold one evaluation: {problems[0]}. Evaluate again, or take the "
            "folder as it was written."
        )
    return ScoredEvaluation(evaluation, scores, samples, items)


def _load_items(folder: Path, evaluation: Evaluation, samples: Sequence[Sample]) -> list[Item]:
    """Load the items; versions that wrote none left them to the installed task.

    Raises:
        UserError: they are not those of the evaluation, or the task does not have them.
    """
    path, version = folder / ITEMS, evaluation.code_version
    if path.exists() or version not in VERSIONS_WITHOUT_ITEMS:
        items = read_records(path, Item)
        try:
            is_unchanged = dataset_digest(items) == evaluation.dataset_digest
        except ValueError:  # NaN, which has no digest and is never written
            is_unchanged = False
        if not is_unchanged:
            raise _changed(path, EVALUATION)
        return items
    indices = {sample.index for sample in samples}
    try:
        installed = tasks.load(evaluation.task).items(evaluation.split, None)
    except UserError:
        installed = []
    items = sorted((i for i in installed if i.index in indices), key=lambda item: item.index)
    if dataset_digest(items) != evaluation.dataset_digest:
        raise UserError(
            f"{folder} was written by version {version} of this program, which kept no items, and "
            f"those of {evaluation.task} are not at hand as they were. Evaluate the model again, "
            f"or read it with that version: pip install 'rlrf-harness=={version}'."
        )
    return items


def _require_unchanged(path: Path, digest: str, by: str) -> None:
    if file_digest(path) != digest:
        raise _changed(path, by)


def _changed(path: Path, by: str) -> UserError:
    return UserError(
        f"{path} is not what {by} was made from: one of them was changed. "
        "Restore it, or evaluate again."
    )
