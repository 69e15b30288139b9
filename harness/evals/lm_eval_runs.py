"""Find the runs that stock lm-eval wrote, and choose for each task the one to read.

lm-eval writes `OUTPUT_PATH/MODEL/results_TIME.json`, or `NAME_TIME.json` where it was given
`--output_path NAME.json`, with a `samples_TASK_TIME.jsonl` per task next to it. Several calls may
share a folder, and a folder per task or per experiment may lie around that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.files import read_json, require_plain
from harness.core.log import say
from harness.core.text import listed, shorten

MAX_BYTES = 4 * 1024**3  # per file; the samples of a task are held in memory
MAX_DEPTH = 3  # levels of folders below the named one
MAX_FOLDERS = 5_000
MAX_RUNS = 1_000
_RESULTS, _SAMPLES = "results_", "samples_"
_NAMED = re.compile(r".+_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(\.\d+)?\.json")
_ADDRESS = re.compile(r"0x[0-9a-f]+")  # of a Python function in memory
# Arguments of a model that change where and how fast it runs, not which model it is.
_MACHINE_ARGUMENTS = {
    "batch_size", "data_parallel_size", "device", "device_map", "device_map_option",
    "gpu_memory_utilization", "max_batch_size", "max_retries", "num_concurrent", "parallelize",
    "tensor_parallel_size", "timeout",
}  # fmt: skip
_CONFIGURED = (
    "dataset_path", "dataset_name", "test_split", "validation_split", "output_type", "doc_to_text",
    "doc_to_target", "doc_to_choice", "description", "generation_kwargs", "metric_list",
    "filter_list", "repeats",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One call of lm-eval: its results file, and what the file says."""

    path: Path
    results: dict[str, Any]

    @property
    def time(self) -> str:
        """Return the time in the names of the run's files."""
        return self.path.stem.rpartition("_")[2]

    @property
    def place(self) -> Path:
        """Return the output path: folder and name of the results file, without the time."""
        return self.path.parent / self.path.stem.rpartition("_")[0]

    @property
    def tasks(self) -> list[str]:
        return sorted(self._required("n-samples"))

    @property
    def model(self) -> dict[str, Any]:
        """Return the evaluated model: its source, its name and the arguments that matter.

        If no argument names the model, lm-eval makes up a name that differs from call to call.
        """
        config = mapping(self.results.get("config"))
        arguments = _arguments(config.get("model_args"))
        name = self.results.get("model_name")
        return {
            "model": name if name in arguments.values() else None,
            "model type": self.results.get("model_source") or config.get("model"),
            **arguments,
        }

    def entry(self, key: str, name: str) -> Any:
        """Return what the object `key` of the results says of `name`; None if it says nothing."""
        return mapping(self.results.get(key)).get(name)

    def _required(self, key: str) -> dict[str, Any]:
        """Return an object that every results file has.

        Raises:
            UserError: the object is missing.
        """
        if not isinstance(value := self.results.get(key), dict):
            raise UserError(
                f"{self.path} is not a results file of lm-eval 0.4.4 or newer: it has no '{key}'."
            )
        return value

    def configuration(self, task: str) -> dict[str, Any]:
        return mapping(self._required("configs").get(task))

    def split(self, task: str) -> str:
        """Return the split of the task that lm-eval evaluates."""
        config = self.configuration(task)
        return str(config.get("test_split") or config.get("validation_split") or "test")

    def multiturn(self, task: str) -> bool | None:
        """Tell whether few-shot examples were turns of a conversation; None: no difference."""
        if not self.results.get("chat_template") or self.entry("n-shot", task) == 0:
            return None
        return bool(self.results.get("fewshot_as_multiturn"))

    def samples(self, task: str) -> Path:
        return self.path.with_name(f"{_SAMPLES}{task}_{self.time}.jsonl")

    def documents(self, task: str) -> int:
        """Return how many documents of the task were evaluated, by the results file."""
        count = mapping(self._required("n-samples").get(task)).get("effective")
        if not isinstance(count, int) or count < 1:
            raise UserError(
                f"{self.path} does not say how many documents of {task} were evaluated. "
                "Evaluate again."
            )
        return count

    def size(self, task: str) -> int:
        """Return how many documents the task has, of which not all need be evaluated."""
        count = mapping(self._required("n-samples").get(task)).get("original")
        return count if isinstance(count, int) else self.documents(task)

    def settings(self, task: str) -> dict[str, Any]:
        """Return how the task was asked and scored, on which two runs have to agree."""
        results, config = self.results, mapping(self.results.get("config"))
        configured, shots = self.configuration(task), self.entry("n-shot", task)
        chat = bool(results.get("chat_template"))
        return {
            "number of documents": self.documents(task),
            "number of few-shot examples": shots,
            "few-shot seed": config.get("fewshot_seed") if shots else None,
            "task version": self.entry("versions", task),
            "gen_kwargs": config.get("gen_kwargs") or None,
            "system instruction": results.get("system_instruction_sha"),
            "chat template": results.get("chat_template_sha") if chat else None,
            "fewshot_as_multiturn": self.multiturn(task),
            **{key: without_addresses(configured.get(key)) for key in _CONFIGURED},
        }


def find(path: Path, depth: int = MAX_DEPTH) -> list[Path]:
    """List the results files of lm-eval at `path`, oldest first.

    `path` is a results file, a folder that holds some, up to `depth` folders deep, or the
    NAME.json that lm-eval was given as its output path.

    Raises:
        UserError: there are too many folders or files.
    """
    if path.is_file():
        return [path] if path.suffix == ".json" else []
    if not path.is_dir():
        named = re.compile(re.escape(path.stem) + r"_\d{4}-.+\.json")
        if path.suffix != ".json" or not path.parent.is_dir():
            return []
        files = [file for file in path.parent.iterdir() if named.fullmatch(file.name)]
    else:
        files = _once(_results_below(path, depth))
    if len(files) > MAX_RUNS:
        raise UserError(f"{path} holds more than {MAX_RUNS:,} results of lm-eval: name one folder.")
    return sorted(files, key=lambda file: (file.stem.rpartition("_")[2], str(file)))


def choose(path: Path, wanted: Collection[str] | None = None) -> dict[str, Run]:
    """Choose the newest run of each task at `path`, and log which files are read.

    `wanted` names the tasks and groups to read; default: all.

    Raises:
        UserError: there is no run; the runs are of several models; the runs of a task lie in
            several places or differ in their settings; a file is malformed.
    """
    runs = [_read(file) for file in find(path)]
    if not runs:
        raise UserError(
            f"There are no results of lm-eval in {path}: neither results_*.json nor NAME_*.json."
        )
    _require_one_model(path, runs)
    chosen: dict[str, Run] = {}
    older: dict[Path, list[str]] = {}
    names = _with_members(wanted, runs) if wanted is not None else None
    for run in runs:
        if not run.tasks:
            raise UserError(f"{run.path} has results of no task.")
        for task in run.tasks:
            if task in chosen and (names is None or task in names):
                _require_same_settings(path, task, chosen[task], run)
                older.setdefault(chosen[task].path, []).append(task)
            chosen[task] = run
    read = chosen if names is None else {t: r for t, r in chosen.items() if t in names}
    _tell(path, read, older)
    return chosen


def require_readable(path: Path) -> None:
    """Refuse a file that is not a regular one, or too large to be held in memory."""
    require_plain(
        path, MAX_BYTES, advice="Evaluate fewer documents with lm-eval's --limit or --samples."
    )


def mapping(value: Any) -> dict[str, Any]:
    """Return `value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def without_addresses(value: Any) -> str:
    """Write a configured value as text, without addresses of functions: they differ by process."""
    return _ADDRESS.sub("", str(value))


def _results_below(path: Path, depth: int) -> Iterator[Path]:
    """Find results files in a folder and those in it, at most `depth` levels deep."""
    seen = 0
    for place, folders, names in os.walk(path, followlinks=True):
        folder = Path(place)
        for name in (*names, *folders):
            if name.endswith(".json") and (name.startswith(_RESULTS) or _NAMED.fullmatch(name)):
                yield folder / name
        folders.sort()
        if len(folder.parts) - len(path.parts) >= depth:
            folders.clear()
        seen += len(folders)
        if seen > MAX_FOLDERS:
            raise UserError(
                f"{path} holds more than {MAX_FOLDERS:,} folders: name the one that lm-eval wrote."
            )


def _once(files: Iterable[Path]) -> list[Path]:
    """List each file once, by its own name if links such as `latest` lead to it, too."""
    nearest = sorted(files, key=lambda file: (file.is_symlink(), len(file.parts)))
    by_place: dict[str, Path] = {}
    for file in nearest:
        by_place.setdefault(os.path.realpath(file), file)
    return [*by_place.values()]


def _read(path: Path) -> Run:
    require_readable(path)
    results = read_json(path)
    if not isinstance(results, dict):
        raise UserError(f"{path} is not a results file of lm-eval: an object is expected.")
    return Run(path, results)


def _arguments(value: Any) -> dict[str, str]:
    """Read a model's arguments by name; versions before 0.4.10 wrote them as one text."""
    if isinstance(value, str):
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        value = {name.strip(): text.strip() for name, _, text in pairs}
    return {
        f"model argument {name}": str(text)
        for name, text in mapping(value).items()
        if name not in _MACHINE_ARGUMENTS
    }


def _require_one_model(path: Path, runs: list[Run]) -> None:
    for run in runs[1:]:
        if difference := _difference(runs[0].model, run.model, (runs[0].path, run.path)):
            raise UserError(
                f"{path} holds lm-eval results of several models: {difference}. Name the folder "
                "or the results file of one."
            )


def _require_same_settings(path: Path, task: str, old: Run, new: Run) -> None:
    shown = shorten(task)
    if old.place != new.place:
        raise UserError(
            f"{path} holds lm-eval results of {shown} in several places, perhaps of several "
            f"models: {old.path} and {new.path}. Name one of them."
        )
    if difference := _difference(old.settings(task), new.settings(task), (old.path, new.path)):
        raise UserError(
            f"{path} holds two runs of {shown} with different settings: {difference}. Name one of "
            "the two files."
        )


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], files: tuple[Path, Path]) -> str:
    """Say which setting of two files differs first, and how; "" if none does."""
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key):
            return (
                f"{shorten(key)} is {shorten(old.get(key))} in {files[0].name} and "
                f"{shorten(new.get(key))} in {files[1].name}"
            )
    return ""


def _with_members(wanted: Collection[str], runs: Sequence[Run]) -> set[str]:
    """Return the wanted names, and those of all tasks and groups below them."""
    names: set[str] = set()
    todo = [*wanted]
    while todo:
        name = todo.pop()
        if name not in names:
            names.add(name)
            members = [run.entry("group_subtasks", name) for run in runs]
            todo += [m for inner in members if isinstance(inner, list) for m in map(str, inner)]
    return names


def _tell(path: Path, chosen: Mapping[str, Run], older: Mapping[Path, list[str]]) -> None:
    read: dict[Path, list[str]] = {}
    for task, run in chosen.items():
        read.setdefault(run.path, []).append(task)
    sources = [f"{listed(sorted(tasks))} from {_below(file, path)}" for file, tasks in read.items()]
    if sources:
        say(f"Read from lm-eval's results in {path}: {'; '.join(sources)}.")
    for file, tasks in older.items():
        say(
            f"Not read: {listed(sorted(tasks))} from {_below(file, path)}, as there is a newer run."
        )


def _below(file: Path, path: Path) -> str:
    return str(file.relative_to(path)) if path in file.parents else file.name
