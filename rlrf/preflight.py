"""What a run would fail at, looked for before it is started: nothing is trained or generated.

What `rlrf.lab.open_lab` refuses is refused here by the same functions, one by one, so that all of
it is said at once; what only shows later (memory, disk, context, file locks) is estimated.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import models
from harness.errors import UserError, first_line
from harness.evaluation import code_version
from harness.judge.config import Judging, load_judging
from harness.leaderboard import Board
from harness.schema import Call, Item
from harness.settings import default_policy
from harness.stats.power import chance, items_needed
from harness.store import is_in_use, read_json
from rlrf.artefacts import open_artefacts
from rlrf.checkpoint import Engines
from rlrf.config import Config, load
from rlrf.doctor import GIB, Finding
from rlrf.explore import pick
from rlrf.lab import check_rules, open_feedback_model
from rlrf.reward_model.source import open_rewarder
from rlrf.rlmec.source import open_rewriter
from rlrf.run import check_identity, holds_run
from rlrf.sampling import sampling_for
from rlrf.training.fitting import check_reporters
from rlrf.training.launch import check_launch
from tasks.plugin import Task

Said = str | tuple[str, str]
"""What was found, and what is worth doing although nothing would fail."""

SOME = 200  # prompts a task that are measured
DISCORDANCE = 0.1  # that a gate's power is reckoned at
POWER = 0.8
SKEW_SECONDS = 5.0


def look_ahead(path: Path, out: Path | None = None, *, ask: bool = False) -> list[Finding]:
    """What the run of the configuration `path` in `out` would meet.

    With `ask` the judge is asked one question, which may cost something. Models named by hub id are
    fetched, as the run would.
    """
    looked = _Looked([])
    config = looked.at("configuration", lambda: _configuration(path))
    if config is None:
        return looked.findings
    folder = out or Path("runs") / path.stem
    judging = looked.at("judge's file", lambda: _judging(config))
    model = looked.at("model", lambda: _model(config))
    if model is not None:
        looked.at("tokenizer", lambda: (None, model.tokens()))
        if config.adapter is not None:
            looked.at("adapter", lambda: (None, _adapter(config, model)))
        looked.at("memory", lambda: (None, _memory(config, model)))
        looked.at("disk", lambda: (None, _disk(config, model, folder)))
    looked.at("training", lambda: (None, _training(config)))
    looked.at("executor", lambda: (None, _executor(config)))
    if judging is not None:
        _tasks(looked, config, judging, model)
        if judging.judge is not None:
            looked.at("judge", lambda: (None, _judge(judging, ask)))
    if config.reward is not None:
        looked.at("reward models", lambda: (None, _reward(config)))
    if any(task.feedback == "model" for task in config.tasks):
        looked.at("feedback model", lambda: (None, _feedback_model(config)))
    if config.artefacts is not None:
        looked.at("artefacts", lambda: (None, _artefacts(str(config.artefacts))))
    looked.at("run folder", lambda: (None, _run_folder(config, folder)))
    looked.at("board", lambda: (None, _board(Path(config.board or folder / "board"))))
    if place := os.environ.get("RLRF_METRICS"):
        looked.at("metrics", lambda: (None, _metrics(place)))
    return looked.findings


@dataclass
class _Looked:
    findings: list[Finding]

    def at(self, name: str, see: Callable[[], tuple[Any, Said]]) -> Any:
        """What `see` gives beside what it says; None where it is refused."""
        try:
            value, said = see()
        except UserError as error:
            self.findings.append(Finding(name=name, found="", ok=False, advice=str(error)))
            return None
        found, advice = said if isinstance(said, tuple) else (said, "")
        self.findings.append(Finding(name=name, found=found, ok=True, advice=advice))
        return value


def _configuration(path: Path) -> tuple[Config, Said]:
    config = load(path)
    names = ", ".join(task.name for task in config.tasks)
    return config, f"{config.method}, {config.iterations} iterations on {names}"


def _judging(config: Config) -> tuple[Judging, Said]:
    judging = load_judging(Path(config.judge) if config.judge else None)
    return judging, config.judge or "none: what needs a judge stays unscored"


# ---- the model


@dataclass(frozen=True)
class _Model:
    folder: Path
    settings: Any  # its transformers configuration
    tokenizer: Any
    parameters: int
    size: int  # bytes of the weights' files

    @property
    def text(self) -> Any:
        """The settings of its language part."""
        return self.settings.get_text_config()

    @cached_property
    def layers(self) -> dict[str, tuple[int, int]]:
        """Name of a layer that an adapter can be on -> its inputs and outputs; no weights."""
        import torch
        import transformers

        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(
                self.settings, trust_remote_code=False
            )
        head = model.get_output_embeddings()
        conv = transformers.pytorch_utils.Conv1D
        return {
            name: tuple(module.weight.shape)
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear | conv) and module is not head
        }

    @property
    def context(self) -> int:
        from harness.engines.loading import context

        return context(self.settings, self.tokenizer)

    def tokens(self) -> Said:
        """Whether the tokenizer is this model's.

        Raises:
            UserError: it has tokens that the model has not, or no end.
        """
        highest = max(self.tokenizer.get_vocab().values(), default=0)
        known = int(self.text.vocab_size)
        if highest >= known:
            raise UserError(
                f"The tokenizer in {self.folder} has {highest + 1:,} tokens and the model "
                f"{known:,}: it is another model's. Save the model's own beside it."
            )
        if self.tokenizer.eos_token_id is None:
            raise UserError(
                f"The tokenizer in {self.folder} has no token that ends a text (eos_token), so "
                "that every answer would run to its limit."
            )
        if self.tokenizer.chat_template is None:
            return f"{highest + 1:,} tokens", (
                "no chat template: prompts go in as they are, which suits a base model"
            )
        return f"{highest + 1:,} tokens, chat template"


def _model(config: Config) -> tuple[_Model, Said]:
    import transformers

    from harness.engines.loading import load_tokenizer

    folder = models.find(config.model, config.revision)
    models.check(folder)
    try:
        settings = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        said = first_line(error)
        raise UserError(f"{folder / models.CONFIG} cannot be used: {said}") from error
    parameters, size = _weights(folder)
    found = _Model(folder, settings, load_tokenizer(folder), parameters, size)
    architecture = (settings.architectures or [settings.model_type])[0]
    return found, f"{architecture}, {parameters / 1e6:,.1f} million weights, {_gib(size)}"


def _weights(folder: Path) -> tuple[int, int]:
    """How many numbers the safetensors of `folder` hold, and in how many bytes.

    Raises:
        UserError: a file is cut short, damaged or not there.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob(models.WEIGHTS))
    for index in folder.glob("*.safetensors.index.json"):
        named = set(map(str, read_json(index)["weight_map"].values()))
        if absent := sorted(named - {file.name for file in files}):
            raise UserError(f"{folder} lacks {absent[0]}, which {index.name} names: fetch it.")
    count = 0
    for file in files:
        try:
            with safe_open(file, "np") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                    count += math.prod(tensors.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{file} is damaged or cut short ({str(error)[:200]}): fetch or save it again."
            ) from error
    return count, sum(file.stat().st_size for file in files)


def _adapter(config: Config, model: _Model) -> Said:
    adapter = config.adapter
    assert adapter is not None  # noqa: S101 (it is looked at where there is one)
    layers = model.layers
    if isinstance(adapter.target_modules, str):
        return f"on {len(layers)} layers"
    for target in adapter.target_modules:
        if not any(_is_at(name, target) for name in layers):
            known = sorted({name.rpartition(".")[2] for name in layers})
            raise UserError(
                f"adapter.target_modules names {target}, and the model has no such layer. It has "
                f"{', '.join(known)}."
            )
    return f"on {sum(_is_adapted(config, name) for name in layers)} layers"


def _is_adapted(config: Config, name: str) -> bool:
    targets = config.adapter.target_modules if config.adapter else []
    return isinstance(targets, str) or any(_is_at(name, target) for target in targets)


def _is_at(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _adapter_weights(config: Config, model: _Model) -> int:
    """Numbers in an adapter: rank times inputs and outputs of each layer that has one."""
    if config.adapter is None:
        return 0
    sizes = (sum(shape) for name, shape in model.layers.items() if _is_adapted(config, name))
    return config.adapter.r * sum(sizes)


# ---- what it takes


def _memory(config: Config, model: _Model) -> Said:
    """An estimate from below: without activations, and with the cache of one response."""
    from harness.engines.loading import find_device
    from harness.engines.room import free_memory, numbers_kept

    device = find_device(config.engine.device)
    where, free = str(device), free_memory(device)
    number = {"float32": 4, "bfloat16": 2, "float16": 2}.get(
        config.engine.dtype, model.size / max(model.parameters, 1)
    )
    cache = numbers_kept(model.text) * number * model.context
    generating = model.parameters * number + cache
    if config.adapter is None:
        training, reckoned = 16.0 * model.parameters, "weights, gradient and two moments in float32"
    else:
        training = model.parameters * number + 16.0 * _adapter_weights(config, model)
        reckoned = "weights as they are, and an adapter with gradient and two moments in float32"
    launch = config.train.launch
    processes = (launch.processes or 1) if launch else 1
    if launch is not None and launch.strategy == "fsdp":
        training /= processes if where != "cpu" else 1
    elif where == "cpu":
        training *= processes
    said = (
        f"at least {_gib(training)} to train ({reckoned}; no activations), {_gib(generating)} to "
        f"generate (weights, cache of one full context); {_gib(free)} free on {where}"
    )
    needed = max(training, generating) if config.executor.kind == "local" else training
    if needed > free:
        hint = "" if config.adapter else ", train an adapter"
        raise UserError(f"{said}. Take a smaller model{hint}, or a larger machine.")
    return said


def _disk(config: Config, model: _Model, out: Path) -> Said:
    candidate = 4 * _adapter_weights(config, model) if config.adapter else model.size
    needed = config.iterations * candidate
    free = shutil.disk_usage(_existing(out)).free
    said = f"{_gib(needed)} for {config.iterations} candidates; {_gib(free)} free for {out}"
    if needed > free:
        raise UserError(f"{said}. Free some, or choose another folder with --out.")
    return said


def _existing(path: Path) -> Path:
    """The nearest folder above `path`, or itself, that is there."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:,.1f} MiB"


# ---- tasks, and who says what answers are worth


def _tasks(looked: _Looked, config: Config, judging: Judging, model: _Model | None) -> None:
    plugins: dict[str, Task] = {}
    for one in config.tasks:

        def see(name: str = one.name) -> tuple[Task, Said]:
            task = judging.task(name)
            return task, _items(config, task)

        def measure(name: str = one.name) -> tuple[None, Said]:
            assert model is not None  # noqa: S101 (see below)
            return None, _prompts(config, plugins[name], model)

        task = looked.at(f"task {one.name}", see)
        if task is not None:
            plugins[one.name] = task
            if model is not None:
                looked.at(f"prompts of {one.name}", measure)
    if len(plugins) == len(config.tasks):
        looked.at("gate", lambda: (None, _gate(config, plugins)))
        if config.method == "rlmec":
            looked.at("rewriter", lambda: (None, _rewriter(config, plugins, judging)))


def _data(config: Config, task: Task) -> Path | None:
    named = next(one.data for one in config.tasks if one.name == task.name)
    return Path(named) if named else None


def _items(config: Config, task: Task) -> Said:
    """How many items there are of those that the run asks for."""
    prompts = next(one.prompts for one in config.tasks if one.name == task.name)
    asked = {
        "train": (prompts, config.iterations),
        "gate": (config.gate.slice, config.iterations),
        "sealed": (config.gate.sealed, 1),
    }
    found, advice = [], []
    for split, (size, turns) in asked.items():
        pick(task, split, size, turn=0, seed=config.seed, data=_data(config, task))
        there = len(task.items(split, _data(config, task)))
        found.append(
            f"{split} {there:,}, {size:,} x {turns} asked"
            if turns > 1
            else f"{split} {there:,}, {size:,} asked"
        )
        if there < size:
            advice.append(f"{split} has {there:,} items, not {size:,}: all are taken")
        elif there < size * turns:
            fresh = there // size
            advice.append(f"{split} items are asked again after iteration {fresh}")
    if task.judge_prompt is not None and config.judge is None:
        advice.append("some of its metrics need a judge and stay unscored: name one as 'judge'")
    return "; ".join(found), "; ".join(advice)


def _prompts(config: Config, task: Task, model: _Model) -> Said:
    """Whether prompts and answers fit in the model's context, and in what training reads."""
    from harness.engines.text import check_sampling, encode, render
    from harness.schema import Message

    settings = [config.explore, *([config.reflect] if _reflects(config) else [])]
    limits = [sampling_for(task, one, 1, config.seed) for one in settings]
    for sampling in limits:
        check_sampling(sampling, model.context)
    items: list[Item] = task.items("train", _data(config, task))[:SOME]
    lengths = [
        len(
            encode(
                model.tokenizer, render(model.tokenizer, [Message(role="user", content=i.prompt)])
            )
        )
        for i in items
    ]
    longest, answer = max(lengths), max(sampling.max_tokens for sampling in limits)
    read = min(config.train.max_length, model.context)
    if min(lengths) >= read:
        raise UserError(
            f"The prompts of {task.name} have {min(lengths):,} tokens and more, and training reads "
            f"{read:,} of prompt and response: raise train.max_length."
        )
    advice = []
    if cut := sum(length + answer > model.context for length in lengths):
        advice.append(f"{cut} of {len(lengths)} prompts lose their beginning: lower max_tokens")
    if _reflects(config) and longest + 2 * answer > model.context:
        advice.append("a long prompt, its answer and the rewrite do not fit together")
    if longest + answer > read:
        advice.append(
            f"the longest pairs do not fit in train.max_length, {read:,}, and are left out"
        )
    found = f"{longest:,} tokens at most, answers {answer:,}, context {model.context:,}"
    return found, "; ".join(advice)


def _reflects(config: Config) -> bool:
    return config.method == "rlrf" and config.reflect.m > 0


def _gate(config: Config, plugins: Mapping[str, Task]) -> Said:
    policy = config.gate.policy or default_policy({n: t.metrics for n, t in plugins.items()})
    check_rules(policy, plugins)
    advice = []
    for rule in policy.rules:
        metric = next(m for m in plugins[rule.task].metrics if m.name == rule.metric)
        if rule.tier != "critical" or metric.kind != "binary":
            continue
        n = len(
            pick(
                plugins[rule.task],
                "gate",
                config.gate.slice,
                turn=0,
                seed=config.seed,
                data=_data(config, plugins[rule.task]),
            )
        )
        spread = math.sqrt(DISCORDANCE)
        power = chance(rule.margin, n, spread, policy.alpha, rule.noise)
        if power < POWER:
            needed = items_needed(rule.margin, spread, policy.alpha, POWER, rule.noise)
            advice.append(
                f"{rule.task} {rule.metric}: {n:,} items pass what has not changed with a chance "
                f"of {power:.2f} if {DISCORDANCE:.0%} of them flip; {needed:,} would with {POWER}"
            )
    return f"{len(policy.rules)} rules", "; ".join(advice)


def _rewriter(config: Config, plugins: Mapping[str, Task], judging: Judging) -> Said:
    with judging.open() as judge:
        source = open_rewriter(config, plugins, judge)
    assert source is not None  # noqa: S101 (the method has one)
    return f"{source.trained.model}" if source.trained else f"trained from {source.base.model}"


def _judge(judging: Judging, ask: bool) -> Said:
    with judging.open(fresh=ask) as judge:
        assert judge is not None  # noqa: S101 (it is looked at where there is one)
        if not ask:
            return judge.description, "not asked: --ask sends one question"
        (reply,) = judge.ask([Call(prompt="Reply with the word yes.", max_tokens=16)])
        if reply.failure:
            raise UserError(f"The judge {judge.id} gave no reply: {reply.failure}.")
        return f"{judge.description}; it replied"


def _reward(config: Config) -> Said:
    assert config.reward is not None  # noqa: S101 (they are looked at where there are any)
    found = open_rewarder(config.reward, config.engine)
    return ", ".join(str(folder) for folder in found.folders)


def _feedback_model(config: Config) -> Said:
    open_feedback_model(config, Engines(config.engine))
    return str(config.feedback_model)


def _artefacts(url: str) -> Said:
    open_artefacts(url)
    return url


# ---- where it runs


def _training(config: Config) -> Said:
    check_reporters(config.train)
    check_launch(config.train, config.engine)
    launch = config.train.launch
    if launch is None:
        return "in this process"
    if launch.accelerate is not None:
        return f"accelerate launch, as {launch.accelerate} says"
    return f"{launch.processes} processes, {launch.strategy}"


def _executor(config: Config) -> Said:
    import importlib.util

    if config.engine.kind == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UserError(
            "engine.kind is vllm, which is not installed: see docs/engines.md, or leave it at hf."
        )
    executor = config.executor
    if executor.kind == "local":
        return f"{config.engine.kind}, in this process"
    Engines(config.engine, 0, executor).close()
    host, _, port = (executor.address or "").rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise UserError(
                f"Nothing answers at executor.address, {executor.address} "
                f"({error.strerror or error}): start the cluster, or correct the address."
            ) from error
    return f"{executor.engines} engines on {executor.address or 'a cluster of this machine'}"


def _run_folder(config: Config, out: Path) -> Said:
    is_there = holds_run(out)
    advice = _file_system(_existing(out))
    if out.is_dir() and is_in_use(out):
        raise UserError(
            f"Another process works in {out}. Wait for it, or choose another with --out."
        )
    if not is_there:
        return f"{out} is {'empty' if out.is_dir() else 'new'}", advice
    check_identity(out, {"config": config.identity, "code": code_version()})
    return f"{out} holds this run, which is resumed", advice


def _file_system(folder: Path) -> str:
    """Whether files can be locked in `folder`, and its clock is this machine's.

    Raises:
        UserError: nothing can be written there, or locks keep nobody out.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".rlrf-doctor-", dir=folder) as scratch:
            file = Path(scratch) / "lock"
            file.write_bytes(b"")
            skew = abs(file.stat().st_mtime - time.time())
            with ExitStack() as opened:
                one, other = (opened.enter_context(open(file, "rb")) for _ in range(2))
                fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
                try:
                    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    pass
                else:
                    raise UserError(
                        f"File locks keep nobody out in {folder}: two processes could spoil one "
                        "run. Choose a folder on another file system."
                    )
    except OSError as error:
        what = "lock files" if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP) else "write"
        raise UserError(
            f"Cannot {what} in {folder} ({error.strerror}). Choose another folder with --out."
        ) from error
    if skew > SKEW_SECONDS:
        return f"its file server's clock differs from this machine's by {skew:.0f} s: set one"
    return ""


def _board(folder: Path) -> Said:
    rows = Board(folder).rows()
    return f"{folder}: {len(rows):,} rows" if rows else f"{folder} is new"


def _metrics(place: str) -> Said:
    from rlrf.monitoring import address, require_package

    require_package()
    host, port = address(place)
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise UserError(
            f"RLRF_METRICS asks for {host}:{port}, which cannot be used "
            f"({error.strerror or error}): name another port."
        ) from error
    return f"{host}:{port} is free"
