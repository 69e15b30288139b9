"""Metrics over HTTP, scraped from real runs while they work."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import subprocess
import sys
import urllib.request

import pytest
from helpers.faulty import FaultyServer
from test_judged_loop import critic, judged_config

from harness.core import run_status
from harness.core.errors import UserError
from harness.core.progress import track
from harness.judges.budget import Spend
from rlrf import cli, monitoring
from rlrf.loop import train
from rlrf.status import markdown, status

pytest.importorskip("prometheus_client")


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch):
    """As in a process of its own."""
    monkeypatch.setattr(run_status, "_state", run_status._State())


@pytest.fixture
def url():
    server, thread = monitoring.serve("127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    server.server_close()
    thread.join()


def scrape(url: str) -> dict[tuple[str, str], float]:
    """(metric, its labels as they are written) -> value."""
    with urllib.request.urlopen(url, timeout=30) as reply:  # noqa: S310
        text = reply.read().decode()
    lines = re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE)
    return {(name, labels): float(value) for name, labels, value in lines}


@pytest.mark.slow
def test_a_run_with_a_judge_is_scraped_while_it_works(tmp_path, tiny_model, toy_letters, url):
    during = []

    def script(number, asked):
        if number == 4:
            during.append((scrape(url), status(tmp_path / "run")))
        return critic(number, asked)

    with FaultyServer(script).running() as server:
        config = judged_config(tmp_path, tiny_model, server)
        file = tmp_path / "judge.yaml"
        judge = json.loads(file.read_text())["judge"]
        prices = {"price": {"input": 1.0, "output": 2.0}, "max_concurrency": 1}
        file.write_text(json.dumps({"judge": judge | prices}))
        train(config, tmp_path / "run")
    ((found, said),) = during
    assert found["rlrf_stage", 'stage="iter_1/feedback"'] == 1
    work = 'unit="calls",work="judging by critic"'
    assert 0 < found["rlrf_work_done", work] < found["rlrf_work_size", work]
    assert found["rlrf_work_rate", work] > 0
    assert found["rlrf_work_left_seconds", work] > 0
    assert found["rlrf_done_total", 'unit="responses",work="explore toy_letters"'] == 24
    assert found["rlrf_stage_seconds_total", 'stage="iter_1/explore"'] > 0
    assert not any(name == "rlrf_iterations" for name, _ in found)
    assert said.progress.stage == "iter_1/feedback"

    after = scrape(url)
    assert not any(name in {"rlrf_stage", "rlrf_work_done"} for name, _ in after)
    who = 'judge="critic"'
    spend = status(tmp_path / "run").spend["critic"]
    assert after["rlrf_judge_calls_total", who] == spend.calls > 0
    assert after["rlrf_judge_requests_total", who] == spend.requests == len(server.asked)
    assert after["rlrf_judge_prompt_tokens_total", who] == 10 * spend.requests
    assert spend.dollars == pytest.approx((10 * 1.0 + 5 * 2.0) * spend.requests / 1e6)
    assert after["rlrf_judge_dollars_total", who] == pytest.approx(spend.dollars)
    assert f"judge critic: {spend.sentence()}" in markdown(status(tmp_path / "run"))


def test_iterations_and_their_outcomes_are_counted(tmp_path, url):
    counts = dict.fromkeys(("lessons", "chosen_refined", "rejected_refined"), 1)
    means = ("explored_reward", "explored_model_reward", "explored_tokens")
    means += ("gate", "gate_model_reward", "gate_tokens", "training")
    row = {"candidate": "M1", "refinements_improved": None} | counts
    row |= {name: {} for name in means}
    outcomes = ["promoted", "rolled back", "promoted"]
    rows = [row | {"iteration": k, "outcome": said} for k, said in enumerate(outcomes)]
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    with run_status.publish_to(tmp_path / ".progress.json"):
        found = scrape(url)
    assert found["rlrf_iterations", 'outcome="promoted"'] == 2
    assert found["rlrf_iterations", 'outcome="rolled back"'] == 1


def test_spend_is_counted_on_by_the_next_process_and_a_damaged_bill_begins_anew(tmp_path):
    for expected in (3, 6):
        with run_status.publish_to(tmp_path / ".progress.json"):
            run_status.count_spend("j", Spend(calls=2, failures={"no": 1}).amounts())
            run_status.count_spend("j", {"calls": 1})
        assert status(tmp_path).spend["j"].calls == expected
    assert status(tmp_path).spend["j"].failures == {"no": 2}
    beyond = f'{{"j": {{"calls": {10**400}}}}}'
    for damaged in ('{"j": {"calls": NaN}}', '{"j": 3}', "[", '{"j": {"calls": -1}}', beyond):
        (tmp_path / run_status.SPEND).write_text(damaged)
        assert status(tmp_path).spend == {}


def test_served_from_the_first_work_on_and_never_by_a_command_that_does_none(monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("RLRF_METRICS", str(port))
        assert cli.run(["tasks"]) == 0
        assert "metrics" not in capsys.readouterr().err.lower()
        with track("work", 1) as advance:
            advance(1)
    said = capsys.readouterr().err
    assert f"Metrics are not served: 127.0.0.1:{port} cannot be used" in said
    assert "work: 1 item in" in said


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),  # noqa: S104
        ("[::1]:9464", ("::1", 9464)),
    ],
)
def test_addresses(place, found):
    assert monitoring.address(place) == found


@pytest.mark.parametrize("place", ["here", "127.0.0.1:", ":-1", "1:99999", "1:\u0663"])
def test_what_is_no_address_is_refused(place):
    with pytest.raises(UserError, match="is not an address"):
        monitoring.address(place)


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if "prometheus" in name else found(name)
    )
    monkeypatch.setenv("RLRF_METRICS", "0")
    assert cli.run(["tasks"]) == 3
    assert "rlrf-harness[metrics]" in capsys.readouterr().err


@pytest.mark.slow
def test_nothing_is_loaded_where_it_is_not_asked_for():
    code = (
        "import sys, rlrf.cli; rlrf.cli.run(['tasks']); "
        "print([m for m in sys.modules if 'prometheus' in m or m == 'rlrf.monitoring'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"HOME": "/"}
    )
    assert done.stdout.splitlines()[-1] == "[]"
