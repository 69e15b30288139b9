"""Find benchmarks by name: those of this package, and any task, group or tag of lm-eval.

lm-eval's are those of the installed package and the YAML files in the user's `include_path`.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import importlib.metadata
import itertools
import json
import logging
import random
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tasks as benchmarks
from harness.core.errors import UserError, summarize
from harness.core.schema import Item, check_name
from harness.core.text import did_you_mean, listed, plural, shorten
from harness.evals.lm_eval_metrics import member_item
from harness.evals.lm_eval_results import make_item
from tasks import plugins
from tasks.task import Task

FEWSHOT_SEED = 1234  # lm-eval's own
PYTHON_SEED, NUMPY_SEED = 0, 1234  # lm-eval's own; some tasks shuffle while they load
WILDCARDS = re.compile(r"[*?\[]")
MAX_MATCHES = 2_000  # tasks that a pattern such as mmlu_* may name
MAX_NAME_BYTES = 200  # of 255 that file systems allow; folders in progress have longer names
MAX_FILES_TOLD = 3
DATA_ERRORS = (
    "ConnectionError", "DatasetNotFoundError", "HfHubHTTPError", "LocalEntryNotFoundError",
    "OfflineModeIsEnabled", "ProxyError", "ReadTimeout", "RepositoryNotFoundError",
)  # fmt: skip


class UnknownBenchmarkError(UserError):
    """Report a name that no benchmark has."""


class BrokenTaskError(UserError):
    """Report a task that lm-eval cannot load although its data and packages are there."""


@dataclass(frozen=True, eq=False)
class StockTask:
    """A task of lm-eval, or a group of tasks, as lm-eval loaded it.

    Attributes:
        name: as lm-eval calls it.
        members: lm-eval's task objects by name; a task that is not a group has itself alone.
        groups: lm-eval's group objects by name: the group itself and those in it.
    """

    name: str
    members: Mapping[str, Any]
    groups: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse a name that cannot be a folder's: evaluations are kept in a folder of that name.

        Raises:
            UserError: it cannot.
        """
        check_name(self.name, "The name of the task")
        is_plain = Path(self.name).name == self.name not in (".", "..")
        if not is_plain or len(self.name.encode()) > MAX_NAME_BYTES:
            raise UserError(
                f"Evaluations of {shorten(self.name)} cannot be kept in a folder of that name: a "
                f"name has no slash and at most {MAX_NAME_BYTES} bytes. Rename the task in its "
                "YAML."
            )

    @property
    def is_group(self) -> bool:
        return self.name in self.groups

    @property
    def needs_likelihoods(self) -> bool:
        return any(task.OUTPUT_TYPE != "generate_until" for task in self.members.values())

    def items(self) -> list[Item]:
        """Return the documents of the split that lm-eval evaluates, as items.

        `Item.index` is the position in the split; in a group, its tasks follow each other.
        """
        return list(self._items)

    @functools.cached_property
    def _items(self) -> list[Item]:
        items: list[Item] = []
        for name, task in self.members.items():
            for index, doc in enumerate(task.eval_docs):
                item = make_item(name, index, _logged(task, doc))
                start = self.starts[name]
                items.append(member_item(item, self.name, start) if self.is_group else item)
        return items

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """Number of documents of each member."""
        return {name: len(task.eval_docs) for name, task in self.members.items()}

    @functools.cached_property
    def starts(self) -> dict[str, int]:
        """Index of the first document of each member, among the items of the group."""
        ends = itertools.accumulate(self.sizes.values())
        return {name: end - self.sizes[name] for name, end in zip(self.sizes, ends, strict=True)}

    def positions(
        self, indices: Mapping[str, Sequence[int]], limit: int | None
    ) -> dict[str, list[int]]:
        """Choose the positions of the documents to ask, by member, without members that have none.

        `indices` names items of the task or group, or documents of a group's members.

        Raises:
            UserError: there is no such item, or none is left.
        """
        chosen = {name: list(range(size)) for name, size in self.sizes.items()}
        if self.is_group and self.name in indices:
            wanted = {*indices[self.name]}
            require_known(self.name, wanted, range(sum(self.sizes.values())))
            for name, start in self.starts.items():
                chosen[name] = [i for i in chosen[name] if start + i in wanted]
        for name in self.members.keys() & indices.keys():
            require_known(name, indices[name], range(self.sizes[name]))
            chosen[name] = sorted({*indices[name]})
        chosen = {name: places[:limit] for name, places in chosen.items() if places}
        if not any(self.sizes.values()):
            raise UserError(
                f"{self.name} has no documents: the split that lm-eval evaluates is empty. Check "
                "its data."
            )
        if not chosen:
            raise UserError(f"No items of {self.name} were chosen; name at least one.")
        return chosen


def require_known(subject: str, indices: Collection[int], known: Collection[int]) -> None:
    """Refuse indices of items that the `subject`, a split or a task, does not have.

    Raises:
        UserError: there is no such item.
    """
    if unknown := sorted({*indices} - {*known}):
        size = len(known)
        raise UserError(
            f"{subject} has {size} {plural('item', size)} and none with index {listed(unknown)}."
        )


def find_benchmarks(
    named: Sequence[str | Task | StockTask], include_path: Iterable[str | Path] = ()
) -> list[Task | StockTask]:
    """Load benchmarks by name, each once, in order; those that are loaded already stay as they are.

    A name is a benchmark of this package or of a plugin, else a task, group or tag of a YAML in
    `include_path` (or in a folder that is included already), else of the installed lm-eval. A tag,
    a pattern such as mmlu_*, and a group without a score of its own stand for all their tasks.

    Raises:
        UserError: there is no such benchmark, or its data or code cannot be loaded.
    """
    with benchmarks.including(include_path):
        known = benchmarks.names()
        loaded: list[Task | StockTask] = []
        for name in named:
            if not isinstance(name, str):
                loaded.append(name)
            elif name in known:
                loaded.append(benchmarks.load(name))
            else:
                loaded += load_stock_tasks(name)
    return list({task.name: task for task in loaded}.values())


def load_stock_tasks(name: str) -> list[StockTask]:
    """Load the task, the group or the tasks of the tag called `name`.

    Raises:
        UserError: as `find_benchmarks`.
    """
    include_path = plugins.included()
    manager = _manager(name, include_path)
    index = manager.task_index
    if WILDCARDS.search(name):
        matches = sorted(fnmatch.filter(index, name))
        names = [n for n in matches if index[n].kind.name in ("TASK", "PY_TASK")]
        if len(names) > MAX_MATCHES:
            raise UserError(f"{name} stands for {len(names):,} tasks: name fewer.")
    elif name in index and index[name].kind.name == "TAG":
        names = sorted(task for task in index[name].tags if task in index)
    else:
        names = [name] if name in index else []
    if not names:
        raise _unknown(name, index, include_path)
    return [task for listed_name in names for task in _load(manager, listed_name)]


def _load(manager: Any, name: str) -> list[StockTask]:
    try:
        with quiet_lm_eval(), _seeded(), no_exit():
            loaded = manager.load(name)
    except UserError:
        raise
    except Exception as error:  # data sets, YAML files and their functions raise anything
        raise _load_error(name, manager.task_index, error) from error
    if name in loaded["groups"]:
        members = list(_with_scores(loaded["groups"][name]))
        if not members:
            raise BrokenTaskError(f"The group {name} has no tasks. Name some under 'task:'.")
        return members
    return [StockTask(name, {name: task}, {}) for task in loaded["tasks"].values()]


def _with_scores(group: Any) -> Iterator[StockTask]:
    """Yield the group, or what is in it if lm-eval computes no score of the group itself."""
    if group.has_aggregation:
        members = {task.task_name: task for task in group.get_all_tasks()}
        groups = {inner.name: inner for inner in (group, *group.get_all_groups())}
        yield StockTask(group.name, dict(sorted(members.items())), groups)
        return
    for child in group:
        if hasattr(child, "get_all_tasks"):
            yield from _with_scores(child)
        else:
            yield StockTask(child.task_name, {child.task_name: child}, {})


def names_in_yaml() -> list[str]:
    """Name the tasks, groups and tags of lm-eval in the folders that are included."""
    from lm_eval.tasks import TaskManager

    folders = [*map(str, plugins.included())]
    with quiet_lm_eval():
        return [*TaskManager(include_path=folders, include_defaults=False).task_index]


def _manager(name: str, include_path: tuple[Path, ...]) -> Any:
    """Return lm-eval's index of the tasks in `include_path`, with its own where they are needed.

    Reading lm-eval's own 14,000 files takes seconds, which a task of the user's does not need.
    """
    from lm_eval.tasks import TaskManager

    with quiet_lm_eval():
        if not include_path:
            return _installed()
        manager = TaskManager(include_path=[*map(str, include_path)], include_defaults=False)
        if not _missing_members(name, manager.task_index):
            return manager
        for known, installed in _installed().task_index.items():
            manager.task_index.setdefault(known, installed)
    return manager


def _missing_members(name: str, index: Mapping[str, Any]) -> list[str]:
    """List what `index` lacks of the task, tag or group `name` and its members."""
    todo: list[Any] = [name]
    seen: set[str] = set()
    missing: list[str] = []
    while todo:
        member = todo.pop()
        if isinstance(member, dict):  # a task or group with settings of its own, or an inline group
            inner = member.get("task")
            named = member.get("group")
            todo += inner if isinstance(inner, list) else [inner]
            if not isinstance(inner, list) and named is not None:
                todo.append(named)
        elif not isinstance(member, str) or member not in index:
            missing.append(str(member))
        elif member not in seen:
            seen.add(member)
            if index[member].kind.name == "GROUP":
                todo += [index[member].cfg]
    return missing


@functools.cache
def _installed() -> Any:
    from lm_eval.tasks import TaskManager

    with quiet_lm_eval():
        return TaskManager()


def _logged(task: Any, doc: Any) -> dict[str, Any]:
    """Return what lm-eval logs of a document, as far as it identifies the document."""
    from lm_eval.utils import handle_non_serializable, hash_string

    text = json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return {
        "doc": json.loads(text),
        "doc_hash": hash_string(text),
        "target_hash": hash_string(str(task.doc_to_target(doc))),
    }


@contextlib.contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Silence lm-eval's log and progress bars, which report its own stages.

    What its tasks print goes to stderr: stdout is for results. lm-eval has no option for its bars,
    and tqdm reads TQDM_DISABLE only when it is imported.
    """
    import datasets
    import lm_eval.api.task as stages

    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, stages.tqdm
    logger.setLevel(logging.ERROR)
    stages.tqdm = functools.partial(bar, disable=True)
    were_disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)
        stages.tqdm = bar
        if not were_disabled:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def no_exit() -> Iterator[None]:
    """Turn a `sys.exit` of a task's code into an error: it must not end this program."""
    try:
        yield
    except SystemExit as stop:
        if type(stop) is not SystemExit:  # somebody stops this program
            raise
        raise RuntimeError(f"its code ends the program by sys.exit({stop.code!r})") from stop


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Seed Python's and numpy's random numbers as lm-eval does; restore them afterwards."""
    import numpy as np

    state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(PYTHON_SEED)
    np.random.seed(NUMPY_SEED)
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


def _unknown(name: str, index: Mapping[str, Any], include_path: Sequence[Path]) -> UserError:
    broken = [problem for folder in include_path for problem in _broken_files(folder)]
    hint = did_you_mean(name, [*benchmarks.names(), *index])
    unread = f" Not read: {'; '.join(broken[:MAX_FILES_TOLD])}." if broken else ""
    return UnknownBenchmarkError(
        f"There is no benchmark '{shorten(name)}'.{hint} `rlrf tasks` lists those of this package, "
        f"`lm_eval ls tasks` those of lm-eval; --include-path adds a folder of yours.{unread}"
    )


def _broken_files(folder: Path) -> Iterator[str]:
    """Name the YAML files in `folder` that lm-eval skips because it cannot read them."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for path in sorted(folder.glob("**/*.yaml"))[:MAX_MATCHES]:
        try:
            config = load_yaml(path, resolve_func=False)
        except Exception as error:  # as TaskIndex.build, which skips the file whatever it is
            mark = getattr(error, "problem_mark", None)
            fault = getattr(error, "problem", None) or summarize(error)
            yield f"{path}{f', line {mark.line + 1}' if mark else ''}: {fault}"
        else:
            if not {"task", "group", "class"} & config.keys():
                yield f"{path}: it names no task"


def _load_error(name: str, index: Mapping[str, Any], error: Exception) -> UserError:
    """Explain why a task could not be loaded, and what to do."""
    entry = index[name]
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and len(chain) < 10:
        if not isinstance(cause, Exception):
            break
        chain.append(cause)
    place = f" ({entry.yaml_path})" if entry.yaml_path else ""
    missing = next((e for e in chain if isinstance(e, ModuleNotFoundError) and e.name), None)
    if missing is not None:
        extra = _extra_of(str(missing.name))
        install = f"'lm-eval[{extra}]'" if extra else str(missing.name).partition(".")[0]
        return UserError(
            f"{name}{place} needs the Python package '{missing.name}', which is not installed: "
            f"pip install {install}."
        )
    for cause in chain:
        kinds = {kind.__name__ for kind in type(cause).__mro__}
        if kinds & {*DATA_ERRORS} or isinstance(cause, FileNotFoundError):
            return UserError(
                f"The data of {name}{place} cannot be had here: {summarize(cause)}. Download it "
                "where there is a network and set HF_HOME (or HF_DATASETS_CACHE) to that cache; "
                "or write a YAML that reads your own files (dataset_path: json, dataset_kwargs: "
                "{data_files: {test: FILE}}) and name its folder with --include-path."
            )
    if entry.kind.name == "GROUP" and (absent := _missing_members(name, index)):
        return BrokenTaskError(
            f"The group {name}{place} names {listed(absent)}, of which there is no task or group."
            f"{did_you_mean(absent[0], index)} Correct the name, or add the folder of its YAML "
            "with --include-path."
        )
    if entry.kind.name == "GROUP" and any(isinstance(cause, RecursionError) for cause in chain):
        return BrokenTaskError(f"The group {name}{place} contains itself: correct its tasks.")
    if any(isinstance(cause, StopIteration) for cause in chain):  # lm-eval asks for the first
        return BrokenTaskError(
            f"{name}{place} has no documents: a split of its data is empty. Check its data."
        )
    root = chain[-1]
    because = f", because of {summarize(root)}" if root is not error else ""
    return BrokenTaskError(
        f"{name}{place} cannot be loaded by lm-eval: {summarize(error)}{because}. Correct the "
        "task, or leave it out."
    )


def _extra_of(module: str) -> str | None:
    """Return the extra of lm-eval that installs `module`, by the names of its requirements."""
    wanted = module.partition(".")[0].replace("_", "-").casefold()
    for requirement in importlib.metadata.requires("lm-eval") or ():
        package, _, condition = requirement.partition(";")
        extra = re.search(r"""extra\s*==\s*['"]([^'"]+)""", condition)
        package_name = re.match(r"[A-Za-z0-9._-]+", package)
        if extra and package_name and package_name[0].replace("_", "-").casefold() == wanted:
            return extra[1]
    return None
