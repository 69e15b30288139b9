"""Run engines as actors of a Ray cluster, and use them as one engine.

Prompts travel to the actors in parts, and completions come back as they are ready. A sample depends
only on its prompt, its number and the seed, so it does not matter which actor generates it: the
parts of a lost actor go to others, with the same result.

Only prompts, completions and names of folders travel. Each node reads the weights itself, so model
folders must be visible to all nodes under one path. A judge that is a model is loaded like any
other; its budget and cache stay with the process that runs the loop, and so do judges behind a
server and verifiers.

Ray is the extra `rlrf-harness[ray]`; only this package uses it.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UserError, first_line
from harness.core.log import say
from harness.core.progress import Advance
from harness.engines import Completion, Likelihood, LocalEngine, OnDone, Pair, Part, Sampling
from harness.engines.cluster.node import (
    Actor,
    ActorLostError,
    LoadedModel,
    Loader,
    check_reachable,
    get,
    own_signals,
    own_version,
    wait_for,
)
from harness.engines.prompts import check_template
from harness.engines.resume import cut_into_parts

MAX_LOST_ACTORS = 3  # in a row, over one part or in one slot, before it is given up
POLL_SECONDS = 1.0  # between two looks at whether the cluster has room
CLOSE_SECONDS = 20.0  # that actors have to close what they opened
OBJECT_STORE_BYTES = 2**28  # of a cluster started here: it holds a few parts of text


class ClusterEngine(LocalEngine):
    """A model on the actors of a cluster; its prompts are rendered here.

    Args:
        what: the model, as `Cluster`'s loader takes it.
        tokenizer: that of the model.
        folders: where the model lies, seen by all nodes.

    Raises:
        UserError: as `Cluster.load`.
    """

    def __init__(
        self, cluster: Cluster, what: Any, *, tokenizer: Any, folders: Sequence[Path]
    ) -> None:
        check_template(tokenizer)
        self._cluster, self._source = cluster, Source(what, tuple(folders))
        model = cluster.load(self._source)
        self.name, self.model_id = model.name, model.model_id
        self.model_digest, self.context = model.model_digest, model.context
        self.tokenizer = tokenizer
        self.parts_at_once = cluster.parts_at_once

    def stream(
        self, parts: Sequence[Part], sampling: Sampling, on_done: OnDone | None = None
    ) -> Iterator[tuple[int, list[list[Completion]]]]:
        """Yield the number of each part of `parts` and its completions, as they are ready."""
        if isinstance(on_done, Advance):
            largest = max((len(part) for part in parts), default=1)
            on_done.at_once(self.parts_at_once * sampling.n * largest)
        return self._cluster.run(
            self._source, "generate", parts, [sampling], each=sampling.n, on_done=on_done
        )

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[list[Completion]]:
        """Generate on all actors, each of which gets some of the prompts."""
        parts = cut_into_parts(prompts, sampling.n, self.parts_at_once)
        asked = [[prompts[place] for place in part] for part in parts]
        made: dict[int, list[Completion]] = {}
        for number, completions in self.stream(asked, sampling, on_done):
            made |= zip(parts[number], completions, strict=True)
        return [made[place] for place in range(len(prompts))]

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        """Score the pairs together, on one actor."""
        return self.loglikelihoods([pairs])[0]

    def loglikelihoods(self, groups: Sequence[Sequence[Pair]]) -> list[list[Likelihood]]:
        """Score each group of pairs on its own, on whichever actor is free."""
        scores = dict(self._cluster.run(self._source, "loglikelihood", groups))
        return [scores[number] for number in range(len(groups))]


@dataclass(frozen=True)
class Source:
    """What the actors load, and the folders it lies in."""

    what: Any
    folders: tuple[Path, ...]


@dataclass(eq=False)
class _Slot:
    """A place for an engine: its actor waits for room, loads, or is ready."""

    number: int
    actor: Any = None
    opening: Any = None  # reference to the next news: that it has room, then that it has loaded
    node: str | None = None
    ready: bool = False
    lost: int = 0  # actors lost in a row


@dataclass
class _Current:
    """What the actors have been told to load, and what the first of them says of it."""

    source: Source
    model: LoadedModel | None = None


@dataclass(frozen=True)
class _Task:
    """A part that an actor works on."""

    slot: _Slot
    actor: Any
    number: int


class Cluster:
    """The actors of a run; they are started when the first engine is loaded.

    Args:
        loader: opens an actor's engines; `loader.load(what)`.
        engines: actors to ask for; if there is room for fewer, the work continues with these.
        cpus, gpus: what an actor takes of its node; a fraction of a GPU shares it.
        in_flight: parts that an actor works on or has waiting.
        address: "auto" or host:port of a running cluster; None: one is started on this machine,
            and stopped by `close`.
        wait: seconds until the cluster must have room for one actor.

    Raises:
        UserError: Ray is not installed.
    """

    def __init__(
        self,
        loader: Loader,
        *,
        engines: int,
        cpus: float = 1,
        gpus: float = 0,
        in_flight: int = 2,
        address: str | None = None,
        wait: float = 300,
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise UserError(
                "executor: ray needs Ray, which is not installed in this environment: "
                "pip install 'rlrf-harness[ray]', or leave the executor out."
            )
        self.parts_at_once = engines * in_flight
        self._loader = loader
        self._engines, self._cpus, self._gpus = engines, cpus, gpus
        self._in_flight, self._address, self._wait = in_flight, address, wait
        self._slots: list[_Slot] = []
        self._current: _Current | None = None
        self._connected = False

    def load(self, source: Source) -> LoadedModel:
        """Let the actors load `source`; return when the first of them has.

        Raises:
            UserError: no cluster, no room for one actor, or what the loader says.
        """
        self._connect()
        for slot in self._slots:
            if slot.actor is None:
                self._start_actor(slot)
        current = self._current
        if current is not None and current.model is not None and current.source == source:
            return current.model
        current = self._current = _Current(source)
        for slot in self._slots:
            slot.ready = False
            if slot.node is not None:
                slot.opening = slot.actor.load.remote(source.what, source.folders)
        while current.model is None:
            self._wait_for_news([])
        placed = sum(slot.node is not None for slot in self._slots)
        if placed < self._engines:
            say(f"{placed} of {self._engines} engines have room so far; the others wait for it.")
        return current.model

    def run(
        self,
        source: Source,
        method: str,
        parts: Sequence[Sequence[Any]],
        options: Sequence[Any] = (),
        *,
        each: int = 1,
        on_done: OnDone | None = None,
    ) -> Iterator[tuple[int, list[Any]]]:
        """Call `method` of the engines on each part; yield its number and result when ready.

        `each` is the number of responses per row of a part.

        Raises:
            UserError: what the engine says, or no engine is left, or a part loses each engine.
        """
        self.load(source)
        waiting = deque(range(len(parts)))
        tasks: dict[Any, _Task] = {}
        losses: Counter[int] = Counter()
        try:
            while waiting or tasks:
                # 1. Give waiting parts to actors that may have more.
                while waiting and (slot := self._least_busy(tasks)) is not None:
                    number = waiting.popleft()
                    ref = slot.actor.call.remote(source.what, method, parts[number], options)
                    tasks[ref] = _Task(slot, slot.actor, number)
                # 2. Collect what is ready; the part of a lost actor waits again.
                for ref in self._wait_for_news(list(tasks)):
                    task = tasks.pop(ref)
                    slot, number = task.slot, task.number
                    try:
                        made, lines = get(ref)
                    except ActorLostError as error:
                        losses[number] += 1
                        waiting.appendleft(number)
                        if losses[number] == MAX_LOST_ACTORS:
                            raise UserError(
                                _too_many_lost(len(parts[number]) * each, error)
                            ) from None
                        if slot.actor is task.actor:
                            others = [t.number for t in tasks.values() if t.actor is task.actor]
                            rows = sum(len(parts[n]) for n in (number, *others))
                            self._replace_lost(slot, error, each * rows)
                        continue
                    slot.lost = 0
                    _pass_on(slot, lines)
                    if on_done is not None:
                        on_done(len(made) * each)
                    yield number, made
        finally:
            # If the caller gives up, nothing waits for what actors are still making.
            for task in tasks.values():
                if task.slot.actor is task.actor:
                    self._kill_actor(task.slot)

    def release(self) -> None:
        """Let the actors free the memory of what they have loaded; return when they have."""
        asked = []
        for slot in self._slots:
            slot.ready = False
            if slot.node is not None:
                slot.opening = None
                asked.append(slot.actor.release.remote())
        wait_for(asked, len(asked))
        self._current = None

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        if not self._slots and not self._connected:
            return
        import ray

        idle = [slot for slot in self._slots if slot.node is not None and slot.opening is None]
        closed = [slot.actor.close.remote() for slot in idle]
        wait_for(closed, len(closed), timeout=CLOSE_SECONDS)
        for slot in self._slots:
            if slot.actor is not None:
                ray.kill(slot.actor)
        self._slots, self._current = [], None
        if self._connected:
            with own_signals():
                ray.shutdown()
            self._connected = False

    def _connect(self) -> None:
        """Join the cluster, or start one, and make the slots."""
        if self._slots:
            return
        # Set before Ray is loaded: no usage reports, and actors of a cluster started here have the
        # same niceness as this process.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")
        import ray
        import ray._private.worker

        if not ray.is_initialized():
            local = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
            try:
                check_reachable(self._address)
                with own_signals():
                    ray.init(
                        address=self._address or "local",
                        log_to_driver=False,
                        logging_level="ERROR",
                        **({} if self._address else local),
                    )
            except Exception as error:  # of many kinds, bare ones among them
                raise UserError(
                    f"Cannot reach a Ray cluster at {self._address or 'this machine'} "
                    f"({first_line(error)}). Start one with `ray start --head`, or leave "
                    "executor.address out."
                ) from error
            self._connected = True
            # Ray reports lost workers on stdout, which is for results, and has no option for it.
            ray._private.worker._worker_logs_enabled = False
        self._slots = [_Slot(number) for number in range(1, self._engines + 1)]

    def _start_actor(self, slot: _Slot) -> None:
        import ray

        # Ray does not restart actors: it would not say when one is there again. Instead another
        # actor takes the slot when there is room.
        options = {"num_cpus": self._cpus, "num_gpus": self._gpus, "max_restarts": 0}
        slot.actor = ray.remote(Actor).options(**options).remote(self._loader, own_version())
        slot.opening = slot.actor.place.remote()

    def _kill_actor(self, slot: _Slot) -> None:
        import ray

        ray.kill(slot.actor)
        slot.actor = slot.opening = slot.node = None
        slot.ready = False

    def _least_busy(self, tasks: dict[Any, _Task]) -> _Slot | None:
        """Find the ready engine with the fewest parts, if it may have another."""
        parts = Counter(task.slot.number for task in tasks.values())
        ready = [s for s in self._slots if s.ready and parts[s.number] < self._in_flight]
        return min(ready, key=lambda slot: parts[slot.number], default=None)

    def _wait_for_news(self, refs: list[Any]) -> list[Any]:
        """Wait until one of `refs` is done or an actor is further; return those of `refs`.

        Raises:
            UserError: no engine is left, or there is no room for one.
        """
        until = time.monotonic() + self._wait
        while True:
            opening = {slot.opening: slot for slot in self._slots if slot.opening is not None}
            is_placed = any(slot.node is not None for slot in self._slots)
            timeout = None if is_placed or refs else POLL_SECONDS
            done = wait_for([*refs, *opening], timeout=timeout)
            for ref in done:
                if ref in opening:
                    self._take_news(opening[ref])
            if done:
                return [ref for ref in done if ref not in opening]
            if time.monotonic() > until:
                raise UserError(self._no_room())

    def _take_news(self, slot: _Slot) -> None:
        """Take note that the actor of `slot` has room, or has loaded, or was lost before."""
        ref, slot.opening = slot.opening, None
        current = self._current
        if current is None:
            return
        try:
            if slot.node is None:
                slot.node = get(ref)
                source = current.source
                slot.opening = slot.actor.load.remote(source.what, source.folders)
                return
            model, lines = get(ref)
        except ActorLostError as error:
            self._replace_lost(slot, error)
            return
        _pass_on(slot, lines)
        current.model = current.model or model
        if model != current.model:
            folders = ", ".join(map(str, current.source.folders))
            raise UserError(
                f"The node {slot.node} has other weights in {folders} than the nodes before it: "
                "put the models of a cluster on a file system that all its nodes see."
            )
        slot.ready = True

    def _replace_lost(self, slot: _Slot, error: ActorLostError, responses: int = 0) -> None:
        """Start another actor in `slot`; the lost one had so many `responses` under way.

        Raises:
            UserError: the last slot is given up.
        """
        where = f"engine {slot.number}" + (f" on {slot.node}" if slot.node else "")
        repeated = f"; {responses} responses that it had under way are repeated"
        say(f"{where} was lost ({error})" + (repeated if responses else ""))
        self._kill_actor(slot)
        slot.lost += 1
        if slot.lost < MAX_LOST_ACTORS:
            self._start_actor(slot)
            return
        self._slots.remove(slot)
        if not self._slots:
            raise UserError(f"No engine is left on the cluster. The last one was lost: {error}.")
        say(f"engine {slot.number} was lost {MAX_LOST_ACTORS} times and is given up")

    def _no_room(self) -> str:
        import ray

        has, free = ray.cluster_resources(), ray.available_resources()
        shown = ", ".join(
            f"{free.get(name, 0):g} of {has.get(name, 0):g} {name}s free" for name in ("CPU", "GPU")
        )
        nodes = sum(node["Alive"] for node in ray.nodes())
        return (
            f"The cluster has had no room for an engine in {self._wait:g} seconds: one takes "
            f"{self._cpus:g} CPUs and {self._gpus:g} GPUs of a node, and there are {nodes} nodes "
            f"with {shown}. Lower executor.cpus and executor.gpus, or add nodes."
        )


def _too_many_lost(responses: int, error: ActorLostError) -> str:
    return (
        f"{MAX_LOST_ACTORS} engines were lost, one after the other, over the same {responses} "
        f"responses. The last one: {error}. If memory did not suffice, give engines less to do at "
        "a time (engine.max_batch) or more of a node (executor.cpus, executor.gpus)."
    )


def _pass_on(slot: _Slot, lines: Sequence[str]) -> None:
    for line in lines:
        say(f"engine {slot.number} on {slot.node}: {line}")
