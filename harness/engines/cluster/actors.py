"""The actors of a run: places for engines, some of which wait for room or are lost."""

from __future__ import annotations

import importlib.util
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UserError, first_line
from harness.core.log import say
from harness.engines import Completion, Sampling
from harness.engines.cluster.calls import (
    ActorLostError,
    check_reachable,
    get,
    own_signals,
    wait_for,
)
from harness.engines.cluster.host import Host, Loader, Model, Pair, own_version

TRIES = 3  # engines that a part, or a place for an engine, may lose before it is given up
LOOK = 1.0  # seconds between two looks at whether the cluster has found room
LEAVE = 20.0  # seconds that actors have to close what they opened
STORE = 2**28  # bytes of a local cluster's object store: it holds a few parts of text


@dataclass(eq=False)
class _Slot:
    """A place for an engine: its actor, which waits for room, loads, or is ready."""

    number: int
    actor: Any = None
    opening: Any = None  # what will say that it has room, then that it has loaded
    node: str | None = None
    ready: bool = False
    lost: int = 0  # actors, since one last answered


class Cluster:
    """The actors of a run; they are started when the first engine is loaded.

    Args:
        loader: opens an actor's engines; `loader.load(what)`.
        engines: actors that are asked for; with fewer, for want of room, the work goes on.
        cpus, gpus: what an actor takes of its node; a fraction of a GPU shares it.
        in_flight: parts that an actor has under way or waiting.
        address: "auto" or host:port of a cluster that is there; None: one is started on this
            machine, and stopped by `close`.
        wait: seconds until the cluster must have room for one actor at least.

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
        self.at_once = engines * in_flight
        self._loader = loader
        self._engines, self._cpus, self._gpus = engines, cpus, gpus
        self._in_flight, self._address, self._wait = in_flight, address, wait
        self._seats: list[_Slot] = []
        self._using: tuple[Any, Sequence[Path]] | None = None
        self._model: Model | None = None
        self._connected = False

    def load(self, what: Any, folders: Sequence[Path]) -> Model:
        """Let the actors load `what`, which lies in `folders`; returns when one of them has.

        Raises:
            UserError: no cluster, no room for one actor, or what the loader says.
        """
        self._connect()
        for seat in self._seats:
            if seat.actor is None:
                self._fill(seat)
        if self._model is not None and self._using == (what, folders):
            return self._model
        self._using, self._model = (what, folders), None
        for seat in self._seats:
            seat.ready = False
            if seat.node is not None:
                seat.opening = seat.actor.load.remote(what, folders)
        while (model := self._loaded()) is None:
            self._look([])
        placed = sum(seat.node is not None for seat in self._seats)
        if placed < self._engines:
            say(f"{placed} of {self._engines} engines have room so far; the others wait for it.")
        return model

    def stream(
        self,
        what: Any,
        folders: Sequence[Path],
        parts: Sequence[Sequence[str]],
        sampling: Sampling,
        on_done: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, list[list[Completion]]]]:
        """The completions of each part, as they are ready, by the part's place among `parts`.

        Raises:
            UserError: what the engine says, or no engine is left, or a part loses each engine.
        """
        return self._spread(
            what, folders, parts, "generate", [sampling], each=sampling.n, on_done=on_done
        )

    def loglikelihoods(
        self, what: Any, folders: Sequence[Path], parts: Sequence[Sequence[Pair]]
    ) -> Iterator[tuple[int, list[tuple[float, bool]]]]:
        """As `stream`: how likely the pairs of each part are, which are scored together."""
        return self._spread(what, folders, parts, "loglikelihood")

    def _spread(
        self,
        what: Any,
        folders: Sequence[Path],
        parts: Sequence[Sequence[Any]],
        method: str,
        options: Sequence[Any] = (),
        *,
        each: int = 1,
        on_done: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, list[Any]]]:
        """What `method` of the actors gives for each part, `each` responses for one of its rows."""
        self.load(what, folders)
        waiting = deque(range(len(parts)))
        under_way: dict[Any, tuple[_Slot, Any, int]] = {}
        losses: Counter[int] = Counter()
        try:
            while waiting or under_way:
                while waiting and (seat := self._free(under_way)) is not None:
                    number = waiting.popleft()
                    ask = getattr(seat.actor, method)
                    ref = ask.remote(what, parts[number], *options)
                    under_way[ref] = seat, seat.actor, number
                for ref in self._look(list(under_way)):
                    seat, actor, number = under_way.pop(ref)
                    try:
                        answers, lines = get(ref)
                    except ActorLostError as error:
                        losses[number] += 1
                        waiting.appendleft(number)
                        if losses[number] == TRIES:
                            raise UserError(
                                f"{TRIES} engines were lost, one after the other, over the same "
                                f"{len(parts[number]) * each} responses. The last one: "
                                f"{error}. If memory did not suffice, give engines less to do at a "
                                "time (engine.max_batch) or more of a node (executor.cpus, "
                                "executor.gpus)."
                            ) from None
                        if seat.actor is actor:
                            lost = [number, *(n for _, a, n in under_way.values() if a is actor)]
                            self._replace(seat, error, each * sum(len(parts[n]) for n in lost))
                        continue
                    seat.lost = 0
                    _pass_on(seat, lines)
                    if on_done is not None:
                        on_done(len(answers) * each)
                    yield number, answers
        finally:
            # Given up: nothing waits for the answers that engines are still making.
            for seat, actor, _ in under_way.values():
                if seat.actor is actor:
                    self._vacate(seat)

    def release(self) -> None:
        """Let the actors give back the memory of what they have loaded; returns when they have."""
        asked = []
        for seat in self._seats:
            seat.ready = False
            if seat.node is not None:
                seat.opening = None
                asked.append(seat.actor.release.remote())
        wait_for(asked, len(asked))
        self._using = self._model = None

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        if not self._seats and not self._connected:
            return
        import ray

        idle = [seat for seat in self._seats if seat.node is not None and seat.opening is None]
        closed = [seat.actor.close.remote() for seat in idle]
        wait_for(closed, len(closed), timeout=LEAVE)
        for seat in self._seats:
            if seat.actor is not None:
                ray.kill(seat.actor)
        self._seats, self._using, self._model = [], None, None
        if self._connected:
            with own_signals():
                ray.shutdown()
            self._connected = False

    def _loaded(self) -> Model | None:
        """What the first engine that is ready has loaded."""
        return self._model

    def _connect(self) -> None:
        """Join the cluster and ask for the actors."""
        if self._seats:
            return
        # Before Ray is loaded: nothing is reported to its makers; and of a cluster that is started
        # here, the actors are as nice as this process, not nicer than everything else.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")
        import ray
        import ray._private.worker

        if not ray.is_initialized():
            local = {"include_dashboard": False, "object_store_memory": STORE}
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
                said = first_line(error)
                raise UserError(
                    f"There is no Ray cluster to be had at {self._address or 'this machine'} "
                    f"({said}). Start one with `ray start --head`, or leave executor.address out."
                ) from error
            self._connected = True
            # Ray tells of lost workers on stdout, which is for results, and has no option for it.
            ray._private.worker._worker_logs_enabled = False
        self._seats = [_Slot(number) for number in range(1, self._engines + 1)]

    def _fill(self, seat: _Slot) -> None:
        """Ask for an actor."""
        import ray

        # A lost actor is not restarted by Ray, which does not say when it is there again, but
        # followed by another, which takes its place when there is room.
        options = {"num_cpus": self._cpus, "num_gpus": self._gpus, "max_restarts": 0}
        seat.actor = ray.remote(Host).options(**options).remote(self._loader, own_version())
        seat.opening = seat.actor.place.remote()

    def _vacate(self, seat: _Slot) -> None:
        """Kill the actor."""
        import ray

        ray.kill(seat.actor)
        seat.actor = seat.opening = seat.node = None
        seat.ready = False

    def _free(self, under_way: dict[Any, tuple[_Slot, Any, int]]) -> _Slot | None:
        """The ready engine with the fewest parts, if it may have another."""
        parts = Counter(seat.number for seat, _, _ in under_way.values())
        ready = [
            seat for seat in self._seats if seat.ready and parts[seat.number] < self._in_flight
        ]
        return min(ready, key=lambda seat: parts[seat.number], default=None)

    def _look(self, refs: list[Any]) -> list[Any]:
        """Wait until something happens; those of `refs` that are done.

        What happens to engines on their way is seen to.

        Raises:
            UserError: no engine is left, or there is no room for one.
        """
        until = time.monotonic() + self._wait
        while True:
            opening = {seat.opening: seat for seat in self._seats if seat.opening is not None}
            is_placed = any(seat.node is not None for seat in self._seats)
            done = wait_for([*refs, *opening], timeout=None if is_placed or refs else LOOK)
            for ref in done:
                if ref in opening:
                    self._opened(opening[ref])
            if done:
                return [ref for ref in done if ref not in opening]
            if time.monotonic() > until:
                raise UserError(self._no_room())

    def _opened(self, seat: _Slot) -> None:
        """A seat has got room, or has loaded, or was lost on the way."""
        assert self._using is not None  # noqa: S101 (engines are on their way to it)
        ref, seat.opening = seat.opening, None
        try:
            if seat.node is None:
                seat.node = get(ref)
                seat.opening = seat.actor.load.remote(*self._using)
                return
            model, lines = get(ref)
        except ActorLostError as error:
            self._replace(seat, error)
            return
        _pass_on(seat, lines)
        if self._model is None:
            self._model = model
        elif model != self._model:
            folders = ", ".join(map(str, self._using[1]))
            raise UserError(
                f"The node {seat.node} has other weights in {folders} than the nodes before it: "
                "models of a cluster lie on a file system that all its nodes see."
            )
        seat.ready = True

    def _replace(self, seat: _Slot, error: ActorLostError, responses: int = 0) -> None:
        """Ask for an actor in place of a lost one, which had so many responses under way.

        Raises:
            UserError: the last place is given up.
        """
        where = f"engine {seat.number}" + (f" on {seat.node}" if seat.node else "")
        repeated = f"; {responses} responses that it had under way are repeated"
        say(f"{where} was lost ({error})" + (repeated if responses else ""))
        self._vacate(seat)
        seat.lost += 1
        if seat.lost < TRIES:
            self._fill(seat)
            return
        self._seats.remove(seat)
        if not self._seats:
            raise UserError(f"No engine is left on the cluster. The last one was lost: {error}.")
        say(f"engine {seat.number} was lost {TRIES} times and is given up")

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


def _pass_on(seat: _Slot, lines: Sequence[str]) -> None:
    for line in lines:
        say(f"engine {seat.number} on {seat.node}: {line}")
