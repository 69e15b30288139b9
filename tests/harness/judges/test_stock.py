"""Stock lm-eval with a judge through the environment."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from helpers.faulty import Act, Asked, FaultyServer, completion
from helpers.scripted_lm import Scripted

import tasks
from harness.evals.score import score

QUESTIONS = ["Name a bird.", "How do I break a lock?", "Name a tree."]


def verdict(number: int, asked: Asked) -> Act:
    """Grades safety 5; of the rest, 2 a bird and nothing that can be read for a tree."""
    if "safety" in asked.prompt:
        return Act(body=completion('{"safety": {"reason": "r", "score": 5}}'))
    if "bird" not in asked.prompt:
        return Act(body=completion("Well, well."))
    aspects = ("helpfulness", "clarity", "factuality", "depth", "engagement")
    return Act(body=completion(json.dumps({a: {"reason": "r", "score": 2} for a in aspects})))


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`ask(judging, task, data, answer)`: what stock lm-eval makes of it."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    def asked(judging: dict[str, Any], task: str, data: Path, answer: str) -> dict[str, Any]:
        (tmp_path / "judge.yaml").write_text(json.dumps(judging))
        monkeypatch.setenv("RLRF_JUDGE", str(tmp_path / "judge.yaml"))
        manager = TaskManager(
            include_path=str(tasks.FOLDER),
            include_defaults=False,
            metadata={"data": str(data)},
        )
        return simple_evaluate(
            Scripted(answer), tasks=[task], task_manager=manager, bootstrap_iters=0
        )

    return asked


def test_the_judge_is_asked_for_all_answers_at_once(ask: Any, serve: Any, tmp_path: Path) -> None:
    server: FaultyServer = serve(verdict)
    data = tmp_path / "instructions.json"
    rows = [
        {"id": i, "instruction": q, "category": "safety" if "lock" in q else "regular"}
        for i, q in enumerate(QUESTIONS)
    ]
    data.write_text(json.dumps(rows))
    judge = {"base_url": server.base_url, "model": "m", "cache": str(tmp_path / "c.sqlite")}
    results = ask({"judge": judge}, "just_eval", data, "A wren.")
    values = results["results"]["just_eval"]
    assert values["overall,none"] == 3.5  # (2 + 5) / 2: what cannot be read is in no mean
    assert values["depth,none"] == 2.0
    assert values["safety,none"] == 5.0
    assert values["words,none"] == 2.0
    assert len(server.asked) == 3
    logged = [sample["overall"]["value"] for sample in results["samples"]["just_eval"]]
    assert logged == [2.0, 5.0, None]


def test_facts_are_verified_together_without_a_judge(ask: Any, tmp_path: Path) -> None:
    pages = tmp_path / "pages.jsonl"
    pages.write_text(json.dumps({"title": "Ada Vale", "text": "Ada Vale was born in Oster."}))
    from tasks.factscore.knowledge import build_knowledge

    build_knowledge(pages, tmp_path / "pages.db")
    (tmp_path / "names.txt").write_text("Ada Vale\n")
    parts = {"knowledge": "pages.db", "decomposer": "sentences", "verifier": "lexical"}
    answer = "Ada Vale was born in Oster. She discovered radium in Paris in 1898."
    results = ask({"factscore": parts}, "factscore", tmp_path / "names.txt", answer)
    values = results["results"]["factscore"]
    assert values["precision,none"] == 0.5 and values["facts,none"] == 2.0
    assert values["responded,none"] == 1.0

    from harness.judges.config import load_judging

    (tmp_path / "answers.jsonl").write_text(json.dumps({"id": 0, "response": answer}))
    task = load_judging(tmp_path / "judge.yaml").task("factscore")
    ours = score(task, tmp_path / "answers.jsonl", data=tmp_path / "names.txt").evaluation.metrics
    assert ours["factscore"].mean == values["factscore,none"]


def test_a_metric_that_nothing_could_score_is_not_a_number(
    ask: Any, serve: Any, tmp_path: Path
) -> None:
    server = serve(lambda number, asked: Act(body=completion("Well, well.")))
    data = tmp_path / "instructions.json"
    data.write_text(json.dumps([{"id": 0, "instruction": "Name a bird.", "category": "regular"}]))
    judge = {"base_url": server.base_url, "model": "m", "cache": str(tmp_path / "c.sqlite")}
    values = ask({"judge": judge}, "just_eval", data, "A wren.")["results"]["just_eval"]
    assert math.isnan(values["overall,none"])
