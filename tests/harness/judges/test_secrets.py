"""The key goes to the server, and nowhere else."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from helpers.faulty import Act, completion

from harness.core.errors import UserError
from harness.core.schema import Call
from harness.judges.config import load_judging

KEY = "sk-proj-Zebra/42+Quagga=="


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)


def spilling(number, asked):
    """A server that says the key back wherever it can."""
    said = asked.headers["Authorization"]
    acts = [
        Act(body=completion(f"your header was {said}")),
        Act(status=400, body=json.dumps({"error": {"message": f"bad key {said}"}}).encode()),
        Act(status=503, body=json.dumps({"detail": said}).encode()),
        Act(body=json.dumps({"error": said}).encode()),
        Act(body=completion(said, finish="length")),
    ]
    return acts[number % len(acts)]


def test_the_key_is_sent_and_found_nowhere_else(serve, judge_of, tmp_path, caplog, capfd):
    server = serve(spilling)
    with caplog.at_level(logging.DEBUG):
        judge = judge_of(server, api_key_env="JUDGE_KEY", max_concurrency=1)
        replies = judge.ask([Call(prompt=f"call {i}") for i in range(20)])
    assert {asked.headers["Authorization"] for asked in server.asked} == {f"Bearer {KEY}"}
    assert any("your header was" in r.text for r in replies)
    assert any("bad key" in r.failure for r in replies)
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert sum(map(len, written)) > 1000
    shown = [str(replies), str(judge.spend), repr(judge), judge.description, caplog.text]
    shown += [str(vars(judge).keys()), *capfd.readouterr()]
    for place in [*written, *(text.encode() for text in shown)]:
        assert KEY.encode() not in place
        assert b"Zebra" not in place


def test_an_error_for_the_user_has_no_key_in_it(serve, judge_of):
    body = json.dumps({"error": {"message": f"Incorrect API key: {KEY}"}}).encode()
    server = serve(lambda number, asked: Act(status=401, body=body))
    with pytest.raises(UserError, match="put a valid one into JUDGE_KEY") as caught:
        judge_of(server, api_key_env="JUDGE_KEY").ask([Call(prompt="p")])
    assert "Zebra" not in str(caught.value)


def test_a_redirect_does_not_carry_the_key_elsewhere(serve, judge_of):
    elsewhere = serve()
    location = {"Location": f"{elsewhere.base_url}/chat/completions"}
    server = serve(lambda number, asked: Act(status=307, headers=location))
    with pytest.raises(UserError, match="redirects to another address"):
        judge_of(server, api_key_env="JUDGE_KEY").ask([Call(prompt="p")])
    assert elsewhere.asked == []


def test_no_key_is_sent_where_none_is_named(serve, judge_of, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = serve()
    judge_of(server).ask([Call(prompt="p")])
    assert "Authorization" not in server.asked[0].headers


def test_a_placeholder_for_a_key_does_not_change_replies(serve, judge_of, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "EMPTY")
    server = serve(lambda number, asked: Act(body=completion("EMPTY answers score 1")))
    [reply] = judge_of(server, api_key_env="JUDGE_KEY").ask([Call(prompt="p")])
    assert reply.text == "EMPTY answers score 1"


@pytest.mark.parametrize(
    "block",
    [
        "base_url: 'http://me:Zebra42@localhost:1/v1', model: m",
        "base_url: 'http://localhost:1/v1?key=Zebra42', model: m",
        "base_url: 'Zebra42', model: m",
        "base_url: 'http://localhost:1/v1', model: m, api_key: Zebra42",
        "base_url: 'http://localhost:1/v1', model: m, api_key_env: sk-Zebra42",
        "base_url: 'http://localhost:1/v1', model: m, api_key_env: hf_Zebra42",
    ],
)
def test_a_secret_in_a_wrong_place_is_refused_and_not_shown(tmp_path: Path, block):
    path = tmp_path / "judge.yaml"
    path.write_text(f"judge: {{{block}}}")
    with pytest.raises(UserError) as caught:
        load_judging(path)
    assert "Zebra" not in str(caught.value)
