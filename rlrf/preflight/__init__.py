"""What a run would fail at, looked for before it is started: nothing is trained or generated.

What `rlrf.context.open_context` refuses is refused here by the same functions, one by one, so that
all of it is said at once; what only shows later (memory, disk, context, file locks) is estimated.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from harness.core.errors import UserError
from harness.judges.config import Judging, load_judging
from rlrf.checkpoint import Engines
from rlrf.config import Config, load
from rlrf.doctor import Finding
from rlrf.objectives.base import check_reporters
from rlrf.objectives.launch import check_launch
from rlrf.preflight import asking, places, start
from rlrf.preflight.findings import Findings, Said


def look_ahead(path: Path, out: Path | None = None, *, ask: bool = False) -> list[Finding]:
    """What the run of the configuration `path` in `out` would meet.

    With `ask` the judge is asked one question, which may cost something. Models named by hub id are
    fetched, as the run would.
    """
    looked = Findings([])
    config = looked.at("configuration", lambda: _configuration(path))
    if config is None:
        return looked.findings
    folder = out or Path("runs") / path.stem
    judging = looked.at("judge's file", lambda: _judging(config))
    model = looked.at("model", lambda: start.find_model(config))
    if model is not None:
        looked.at("tokenizer", lambda: (None, model.tokens()))
        if config.adapter is not None:
            looked.at("adapter", lambda: (None, start.adapter(config, model)))
        looked.at("memory", lambda: (None, start.memory(config, model)))
        looked.at("disk", lambda: (None, places.disk(config, model, folder)))
    looked.at("training", lambda: (None, _training(config)))
    looked.at("executor", lambda: (None, _executor(config)))
    if judging is not None:
        asking.tasks(looked, config, judging, model)
        if judging.judge is not None:
            looked.at("judge", lambda: (None, asking.judge(judging, ask)))
    if config.reward is not None:
        looked.at("reward models", lambda: (None, asking.reward(config)))
    if any(task.feedback == "model" for task in config.tasks):
        looked.at("feedback model", lambda: (None, asking.feedback_model(config)))
    if config.artefacts is not None:
        looked.at("artefacts", lambda: (None, places.artefacts(str(config.artefacts))))
    looked.at("run folder", lambda: (None, places.run_folder(config, folder)))
    looked.at("board", lambda: (None, places.board(Path(config.board or folder / "board"))))
    if place := os.environ.get("RLRF_METRICS"):
        looked.at("metrics", lambda: (None, places.metrics(place)))
    return looked.findings


def _configuration(path: Path) -> tuple[Config, Said]:
    config = load(path)
    names = ", ".join(task.name for task in config.tasks)
    return config, f"{config.method}, {config.iterations} iterations on {names}"


def _judging(config: Config) -> tuple[Judging, Said]:
    judging = load_judging(Path(config.judge) if config.judge else None)
    return judging, config.judge or "none: what needs a judge stays unscored"


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
