"""How much faster a judge is than a client that asks one call after the other.

    python bench/judge.py --out judge.json [--base-url http://localhost:8000/v1 --model NAME]

Both ask the same server the same calls, turn by turn, and have to get the same replies; the judge
also writes each to a new cache. Servers: `transformers serve` with a tiny model, which computes one
reply at a time; one that takes a fixed time for each, however many are under way; and one of yours,
if you name it, such as vLLM with the model of `tests/helpers/tiny_judge.py`.
"""

from __future__ import annotations

import argparse
import operator
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
from ratio import publish, race

from harness.core.schema import Call
from harness.judges.config import open_judge
from harness.judges.llm import optional, request
from harness.judges.settings import JudgeSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import tiny_judge
from helpers.faulty import Act, Asked, FaultyServer, completion
from helpers.serving import transformers_serve

LATENCY = 0.1  # seconds
AT_ONCE = 16


@contextmanager
def fixed_latency() -> Iterator[str]:
    """A server that takes `LATENCY` for every reply."""

    def late(_: int, asked: Asked) -> Act:
        return Act(body=completion(f"reply to {asked.prompt}"), delay=LATENCY)

    with (server := FaultyServer(late)).running():
        yield server.base_url


def sequential(settings: JudgeSettings, calls: Sequence[Call]) -> list[str]:
    """The plain client: one connection, one call at a time."""
    url = f"{settings.base_url}/chat/completions"
    replies = []
    with httpx2.Client(timeout=300, headers={"Content-Type": "application/json"}) as http:
        for call in calls:
            response = http.post(
                url, content=request(settings, call, optional(call, settings))
            ).raise_for_status()
            replies.append(response.json()["choices"][0]["message"]["content"])
    return replies


def in_parallel(settings: JudgeSettings, calls: Sequence[Call]) -> list[str]:
    """The judge."""
    with open_judge(settings) as judge:
        return [reply.text for reply in judge.ask(calls)]


def compare(name: str, settings: JudgeSettings, calls: Sequence[Call], rounds: int) -> dict:
    def judged() -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            return in_parallel(
                settings.model_copy(update={"cache": Path(folder) / "judge.sqlite"}), calls
            )

    sequential(settings, calls[:2])  # warm
    return race(
        f"judge against a sequential client, {name}",
        lambda: sequential(settings, calls),
        judged,
        rounds=rounds,
        same=operator.eq,
        warm=False,
        calls=len(calls),
        max_concurrency=settings.max_concurrency,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--calls", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--base-url", help="of a server of yours, judged beside the others")
    parser.add_argument("--model", help="as that server calls it")
    given = parser.parse_args()
    rows = []
    with fixed_latency() as base_url:
        settings = JudgeSettings(base_url=base_url, model="m", max_concurrency=AT_ONCE)
        calls = [Call(prompt=f"call {i}") for i in range(given.calls)]
        name = f"{LATENCY * 1000:.0f} ms a reply, whatever the load"
        rows.append(compare(name, settings, calls, given.rounds))
    verdicts = [tiny_judge.call(*one) for one in tiny_judge.answered(given.calls)]
    if given.base_url:
        settings = JudgeSettings(
            base_url=given.base_url, model=given.model, max_concurrency=AT_ONCE
        )
        rows.append(compare(f"{given.model} at {given.base_url}", settings, verdicts, given.rounds))
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_judge.save(Path(folder) / "judge")
        with transformers_serve(model, Path(folder) / "log") as base_url:
            settings = JudgeSettings(base_url=base_url, model=str(model), max_concurrency=AT_ONCE)
            rows.append(compare("transformers serve", settings, verdicts, given.rounds))
    publish(rows, given.out)


if __name__ == "__main__":
    main()
