"""Serve metrics for Prometheus over HTTP while a command works: RLRF_METRICS=127.0.0.1:9464.

Everything is read when it is scraped, from `harness.core.run_status` in this process and from the
folder of the open run. Counters start at 0 with the process. The server has
neither password nor encryption, so an address without a host listens on this machine only.
"""

from __future__ import annotations

import importlib.util
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIServer

from harness.core.errors import UserError
from harness.core.log import say
from harness.core.run_status import Work, before_first_work, snapshot
from harness.judges.budget import Spend

if TYPE_CHECKING:
    from prometheus_client.core import Metric

HERE = "127.0.0.1"


def address(place: str) -> tuple[str, int]:
    """Parse host and port, such as 9464, 127.0.0.1:9464 or [::1]:9464; port 0 is any free port.

    Raises:
        UserError: `place` is not an address.
    """
    host, _, port = place.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 2**16):
        raise UserError(
            f"RLRF_METRICS={place} is not an address to serve metrics at. Write 9464, or "
            "127.0.0.1:9464."
        )
    return host.strip("[]") or HERE, int(port)


def require_package() -> None:
    """Check that prometheus-client is installed.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("prometheus_client") is None:
        raise UserError(
            "RLRF_METRICS asks for metrics, which prometheus-client serves: "
            "pip install 'rlrf-harness[metrics]', or unset RLRF_METRICS."
        )


def serve_when_work_begins(place: str) -> None:
    """Serve metrics at `place` from the first work of this process to its end.

    A command that does no work (`rlrf status`) opens no port. If the port is in use, the command
    logs that and works without metrics.

    Raises:
        UserError: `place` is not an address, or prometheus-client is not installed.
    """
    host, port = address(place)
    require_package()

    def begin() -> None:
        try:
            serve(host, port)
        except OSError as error:
            say(
                f"Metrics are not served: {host}:{port} cannot be used "
                f"({error.strerror or error}). RLRF_METRICS may name another port.",
                "error",
            )

    before_first_work(begin)


def serve(host: str, port: int) -> tuple[WSGIServer, threading.Thread]:
    """Serve metrics from a thread of this process.

    Raises:
        OSError: the address cannot be used.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(_Collector())
    server, thread = start_http_server(port, host, registry)
    say(f"metrics: http://{host}:{server.server_port}/metrics")
    return server, thread


class _Collector:
    """Collect the metrics at each scrape."""

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        now = snapshot()
        stage = GaugeMetricFamily(
            "rlrf_stage", "1 for the stage that is under way", labels=["stage"]
        )
        if now.stage:
            stage.add_metric([now.stage], 1)
        yield stage
        seconds = CounterMetricFamily("rlrf_stage_seconds", "worked at a stage", labels=["stage"])
        for name, spent in now.seconds.items():
            seconds.add_metric([name], spent)
        yield seconds

        labels = ["work", "unit"]
        done = CounterMetricFamily("rlrf_done", "units of work done", labels=labels)
        for key, units in now.done.items():
            done.add_metric(key, units)
        yield done
        under_way: dict[str, tuple[str, Callable[[Work], float | None]]] = {
            "rlrf_work_done": ("done of the work that is under way", lambda w: w.done),
            "rlrf_work_size": ("of the work that is under way", lambda w: w.total),
            "rlrf_work_rate": ("units a second, since it began", lambda w: w.rate),
            "rlrf_work_left_seconds": ("until it is done, at that rate", lambda w: w.left),
        }
        for name, (said, of) in under_way.items():
            gauge = GaugeMetricFamily(name, said, labels=labels)
            for work in now.work:
                if (value := of(work)) is not None:
                    gauge.add_metric([work.name, work.unit], value)
            yield gauge
        yield from _spend({judge: Spend.of(amounts) for judge, amounts in now.spend.items()})
        iterations = GaugeMetricFamily(
            "rlrf_iterations", "of the open run, by what became of them", labels=["outcome"]
        )
        for outcome, count in _outcomes(now.run).items():
            iterations.add_metric([outcome], count)
        yield iterations


def _spend(judges: dict[str, Spend]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    counted: dict[str, tuple[str, Callable[[Spend], float | None]]] = {
        "rlrf_judge_calls": ("asked of a judge", lambda s: s.calls),
        "rlrf_judge_cached": ("calls answered from the cache", lambda s: s.cached),
        "rlrf_judge_requests": ("sent, retries included", lambda s: s.requests),
        "rlrf_judge_failed": ("calls without a reply", lambda s: sum(s.failures.values())),
        "rlrf_judge_prompt_tokens": ("read by a judge", lambda s: s.prompt_tokens),
        "rlrf_judge_completion_tokens": ("written by a judge", lambda s: s.completion_tokens),
        "rlrf_judge_dollars": ("spent on a judge, if it has a price", lambda s: s.dollars),
    }
    for name, (said, of) in counted.items():
        counter = CounterMetricFamily(name, said, labels=["judge"])
        for judge, spend in judges.items():
            if (value := of(spend)) is not None:
                counter.add_metric([judge], value)
        yield counter


def _outcomes(run: Path | None) -> Counter[str]:
    from rlrf.status import status

    return Counter(iteration.outcome for iteration in status(run).iterations) if run else Counter()
