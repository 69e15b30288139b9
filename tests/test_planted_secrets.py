"""Keys are planted in the environment; then all that commands wrote and showed is searched."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
from helpers.faulty import Act, Asked, FaultyServer, completion

from rlrf.quickstart import seed_policy

PLANTED = {
    "JUDGE_KEY": "sk-judge/Zebra+4f9a2e71==",
    "SERVER_KEY": "sk-server-Quagga-77ab01c3",
    "OPENAI_API_KEY": "sk-openai-Okapi-19ce55d0",
    "HF_TOKEN": "hf_KudupQmZrTsWyLxVbNcJhGfDs",
    "WANDB_API_KEY": "9f8e7d6c5b4a39281706f5e4d3c2b1a0ffee1234",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/Gnu7MDENG+bPxRfiCYzebu",
}
CONFIG = """
model: {model}
iterations: 1
judge: judge.yaml
tasks: [{{name: mini_just_eval, prompts: 4, feedback: critique}}]
explore: {{n: 3}}
reflect: {{m: 1}}
pairs: {{threshold: 0.05}}
train: {{learning_rate: 1.0e-4, batch_size: 4, max_length: 400, report_to: [tensorboard]}}
gate: {{slice: 6, sealed: 6}}
"""
JUDGE = """
judge: {{base_url: "{base_url}", model: {model}, api_key_env: JUDGE_KEY, cache: judge.sqlite,
  max_attempts: 4, backoff: 0.01}}
"""
ASPECTS = ("readability", "completeness", "factuality")


def indiscreet(number: int, asked: Asked) -> Act:
    """A server that repeats the key in what it says, and in errors, before it does its work."""
    key = asked.headers.get("Authorization", "")
    if number % 3 == 0:
        return Act(
            status=500, body=json.dumps({"error": {"message": f"at work with {key}"}}).encode()
        )
    if number % 7 == 1:
        return Act(status=429, body=f"slow down, {key}".encode(), headers={"X-Key": key})
    if "The three aspects:" in asked.prompt:
        places = dict(zip(("first", "second", "third"), ASPECTS, strict=True))
        return Act(body=completion(json.dumps({"reason": f"told by {key}"} | places)))
    if "[answered " in asked.prompt:
        said = {"sentence": "", "justification": f"Say more, {key}.", "grade": "poor"}
        return Act(body=completion(json.dumps(dict.fromkeys(ASPECTS, said))))
    return Act(body=completion(f"{key} says #### 7"))


def refusing(number: int, asked: Asked) -> Act:
    key = asked.headers.get("Authorization", "")
    body = json.dumps({"error": {"message": f"{key} is no key"}}).encode()
    return Act(status=(401, 400, 404)[number % 3], body=body)


class Watched:
    """Commands run in `folder`: what they showed, and how they stood in the list of processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shown: list[str] = []
        self.listed: set[bytes] = set()
        for name in ("home", "tmp", "work"):
            (folder / name).mkdir()
        places = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
        told = {"RLRF_DEBUG": "1", "RLRF_LOG": "json", "HF_HUB_OFFLINE": "1"}
        self.environment = os.environ | PLANTED | places | told | {"OMP_NUM_THREADS": "1"}

    def run(self, *words: str, code: int = 0) -> None:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "rlrf", *words],
            cwd=self.folder / "work",
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        watch = threading.Thread(target=self._watch, args=(process,))
        watch.start()
        out, err = process.communicate()
        watch.join()
        self.shown += [out, err]
        assert process.returncode == code, err[-3000:]

    def _watch(self, process: subprocess.Popen[str]) -> None:
        while process.poll() is None:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.listed.add(path.read_bytes())
                except OSError:  # it has ended
                    continue
            time.sleep(0.1)

    def written(self) -> list[tuple[str, bytes]]:
        found = []
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                data = path.read_bytes()
                found.append((str(path), gzip.decompress(data) if path.suffix == ".gz" else data))
        return found


def disguises(secret: str) -> list[bytes]:
    """As it is, in the part that base64 and quoting leave alone, and in those."""
    encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
    bearer = base64.b64encode(f"Bearer {secret}".encode()).decode()[12:-4]
    words = re.findall(r"[A-Za-z0-9]{8,}", secret)
    found = [secret, encoded, bearer, urllib.parse.quote(secret, safe=""), *words]
    return [one.encode() for one in found]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_planted_keys_are_found_nowhere(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    work = tmp_path / "work"
    (work / "config.yaml").write_text(CONFIG.format(model=seed_policy()))
    at_server = ("eval", "--engine", "openai", "--model", "m", "--tasks", "mini_gsm8k")
    at_server += ("--limit", "4", "--api-key-env", "SERVER_KEY")
    with (server := FaultyServer(indiscreet)).running():
        (work / "judge.yaml").write_text(JUDGE.format(base_url=server.base_url, model="critic"))
        watched.run("train", "config.yaml", "--out", "run")
        watched.run(*at_server, "--base-url", server.base_url, "--out", "evaluations/server")
    sent = {asked.headers.get("Authorization") for asked in server.asked}
    assert sent == {f"Bearer {PLANTED[name]}" for name in ("JUDGE_KEY", "SERVER_KEY")}

    with (server := FaultyServer(refusing)).running():
        # Another judge, of whose replies none is in the cache.
        (work / "judge.yaml").write_text(JUDGE.format(base_url=server.base_url, model="another"))
        watched.run("train", "config.yaml", "--out", "other", code=3)
        watched.run(*at_server, "--base-url", server.base_url, code=3)
    assert any("Traceback" in text for text in watched.shown)

    made = "evaluations/server/mini_gsm8k"
    watched.run("board", "add", "board", made, "--name", "server")
    watched.run("gate", made, made, "--markdown", "gate.md", code=2)
    watched.run("board", "render", "run/board", "--format", "html")
    for words in (["report", "run"], ["status", "run", "--json"], ["doctor"]):
        watched.run(*words)

    written = watched.written()
    names = " ".join(name for name, _ in written)
    for made in ("judge.sqlite", "ledger.jsonl", "report.html", "samples.jsonl", "events.out"):
        assert made in names
    assert any(b"config.yaml" in line for line in watched.listed)
    places = [*written, *((f"output {i}", text.encode()) for i, text in enumerate(watched.shown))]
    places += [("the list of processes", line) for line in watched.listed]
    assert any(b"[key]" in data for _, data in places)  # what a server said back was kept without
    for name, secret in PLANTED.items():
        for disguise in disguises(secret):
            for place, data in places:
                assert disguise not in data, f"{name} in {place}"
