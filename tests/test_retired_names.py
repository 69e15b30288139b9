"""Names that were replaced stay out of code and docs, so that each thing keeps one name.

Whoever renames something adds a line here. The changelog may speak of old names.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = ["harness", "tasks", "rlrf", "bench", "tests", "docs", "configs"]
PAGES = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml"]
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".jinja"}

# Whole words, with their dots: `harness.schema` is not in `harness.schema_of`.
CURRENT = {
    # modules
    "harness.columns": "harness.evals.inputs",
    "harness.decoding": "harness.core.decoding",
    "harness.errors": "harness.core.errors",
    "harness.evaluate": "harness.evals.evaluate",
    "harness.evaluation": "harness.evals.evaluation",
    "harness.core.progress.say": "harness.core.log.say",
    "harness.core.incidental": "harness.core.folders",
    "harness.core.memory": "harness.core.errors",
    "harness.core.names": "harness.core.schema",
    "harness.core.settings": "harness.core.yaml and harness.gate.policy",
    "harness.evals.cluster_file": "harness.evals.inputs",
    "harness.evals.lm_eval_groups": "harness.evals.lm_eval_metrics",
    "harness.evals.replay": "harness.evals.score",
    "harness.evals.rescoring": "harness.evals.verification",
    "harness.gate.notes": "harness.gate.clusters",
    "harness.gate.promotion": "harness.gate.entry",
    "harness.incidental": "harness.core.folders",
    "harness.judge": "harness.judges",
    "harness.kept": "harness.engines.resume",
    "harness.leaderboard": "harness.board",
    "harness.memory": "harness.core.errors",
    "harness.models": "harness.engines.model_folder",
    "harness.names": "harness.core.schema",
    "harness.outputs": "harness.core.outputs",
    "harness.progress": "harness.core.progress",
    "harness.ranking": "harness.board.ranking",
    "harness.reliability": "harness.render.html.judge_findings",
    "harness.render.html.numbers": "harness.render.numbers",
    "harness.reports": "harness.render.html",
    "harness.replay": "harness.evals.score",
    "harness.report": "harness.render.html.comparison",
    "harness.schema": "harness.core.schema",
    "harness.settings": "harness.core.yaml",
    "harness.sides": "harness.evals.inputs",
    "harness.stats.anytime": "harness.stats.sequential",
    "harness.stats.exact_power": "harness.stats.power",
    "harness.stats.intraclass": "harness.stats.clusters",
    "harness.stats.resampling": "bench/resampling.py",
    "harness.stats.reuse": "bench/reuse.py",
    "harness.store": "harness.core.files",
    "harness.testing": "rlrf.testing",
    "harness.watch": "harness.evals.until_decided",
    "rlrf.alone": "rlrf.stage_commands",
    "rlrf.explore": "rlrf.sampling",
    "rlrf.feedback_model": "rlrf.models.feedback",
    "rlrf.lab": "rlrf.context",
    "rlrf.leaks": "rlrf.training_examples",
    "rlrf.lessons": "rlrf.training_examples",
    "rlrf.metrics": "rlrf.recording",
    "rlrf.models.feedback.asking": "rlrf.models.feedback.model",
    "rlrf.models.feedback.config": "rlrf.models.feedback.model",
    "rlrf.models.reward.config": "rlrf.models.reward.model and rlrf.models.reward.self_evolve",
    "rlrf.models.reward.encoding": "rlrf.models.reward.model",
    "rlrf.models.reward.loading": "rlrf.models.reward.model",
    "rlrf.models.reward.result": "rlrf.models.reward.self_evolve_report",
    "rlrf.models.reward.self_labels": "rlrf.models.reward.self_evolve",
    "rlrf.models.reward.source": "rlrf.models.reward.rewarder",
    "rlrf.objectives.reference": "rlrf.objectives.dpo",
    "rlrf.quickstart.recipe": "bench/seed_policy.py",
    "rlrf.reward_model": "rlrf.models.reward",
    "rlrf.rlmec.alignment": "rlrf.rlmec.tokens",
    "rlrf.rlmec.objective": "rlrf.objectives.rlmec",
    "rlrf.rlmec.rewards": "rlrf.rlmec.tokens",
    "rlrf.rlmec.source": "rlrf.rlmec.rewriter",
    "rlrf.rlmec.steps": "rlrf.rlmec.teacher",
    "rlrf.rlmec.teacher_prompt": "rlrf.rlmec.teacher",
    "rlrf.training": "rlrf.objectives",
    "harness.judges.backend": "harness.judges.llm",
    "harness.judges.rubric": "harness.judges.critique",
    "harness.judges.wire": "harness.judges.llm",
    "harness.serving.pace": "harness.serving.server",
    "tasks.factscore.demonstrations": "tasks.factscore.decomposers",
    "tasks.factscore.judge_verifier": "tasks.factscore.verifiers",
    "tasks.factscore.parts": "tasks.factscore.pipeline",
    "tasks.factscore.refusals": "tasks.factscore.abstention",
    "tasks.gsm8k.answer": "tasks.gsm8k.scoring",
    "tasks.just_eval.aspects": "tasks.just_eval.judging",
    "tasks.just_eval.prompt": "tasks.just_eval.judging",
    "rlrf.versions": "rlrf.run",
    "tasks.plugin": "tasks.task",
    "tasks.splits": "tasks.data",
    "harness.cluster": "harness.engines.cluster",
    "harness.engines.attention": "harness.engines.shared_prefix",
    "harness.engines.batch_size": "harness.engines.hf",
    "harness.engines.choice": "harness.engines.open",
    "harness.engines.cluster.actors": "harness.engines.cluster",
    "harness.engines.cluster.calls": "harness.engines.cluster.node",
    "harness.engines.cluster.engine": "harness.engines.cluster",
    "harness.engines.cluster.host": "harness.engines.cluster.node",
    "harness.engines.decoding": "harness.engines.hf",
    "harness.engines.dtype": "harness.engines.loading",
    "harness.engines.packed": "harness.engines.onednn_linear",
    "harness.engines.reading": "harness.engines.reader",
    "harness.engines.room": "harness.engines.hf",
    "harness.engines.rows": "harness.engines.hf",
    "harness.engines.sampling": "harness.engines.hf",
    "harness.engines.template": "harness.engines.prompts",
    "harness.engines.text": "harness.engines.prompts",
    "harness.engines.unanswered": "harness.engines",
    "rlrf.cli.common": "rlrf.cli.options and rlrf.cli.output",
    "rlrf.cli.sizing": "rlrf.cli.plan",
    "rlrf.cli.streams": "rlrf.cli.output",
    "rlrf.checkpoint": "harness.engines.model_folder and harness.engines.open",
    "harness.core.time_left": "harness.core.progress",
    "harness.judges.client": "harness.judges.llm",
    "harness.board.rows": "harness.board.ledger",
    "harness.board.merge": "harness.board.ledger",
    "harness.serving.redaction": "harness.serving.wire",
    "tasks.factscore.retrievers": "tasks.factscore.knowledge",
    "rlrf.models.reward.training": "rlrf.models.reward.model",
    "harness.engines.cluster.ray_calls": "harness.engines.cluster.node",
    # types, errors and constants
    "tells_prompts": "RemoteEngine",
    "check_sampling": "Sampling.check",
    "OpenEngine": "OpenLocal",
    "JudgeModel": "EngineSpec",
    "AbsentError": "TransientError",
    "FailedError": "CallFailedError",
    "Ground": "Reference",
    "HOPELESS": "MAX_CONSECUTIVE_FAILURES",
    "Kept": "ResumableEngine",
    "LostError": "ActorLostError",
    "NotACompletionError": "TransientError",
    "PassingError": "TransientError",
    "ServerGoneError": "ServerDownError",
    "UnreachableError": "TransientError",
    "Wish": "Option",
    "PutRight": "Rewrite",
    "UnreadableError": "UnparsableReplyError",
    "_Seat": "_Slot",
    "raise_alarms": "with_alarms",
    "decide_by": "decide_by_plan",
    "reached_at": "items_at_power",
    "by_feedback": "reward_by_feedback",
    "open_tools": "open_services",
    "takes_over": "Iteration.outcome",
}
ALLOWED: dict[str, set[str]] = {}  # name -> files in which it is a stored field or another word


FILE = re.compile(
    r"(?<![\w./~-])(?:harness|tasks|rlrf|bench|tests|docs|configs|environments)"
    r"/[\w./-]+\.(?:py|md|ya?ml|jsonl?|txt|toml|csv|svg)\b"
)
TO_WRITE = {
    "tests/tasks/capitals/test_capitals.py",
    "rlrf/methods/shortest.py",
    "harness/readers/quizzer.py",
}  # by a reader


def written_files() -> list[Path]:
    """The files that people write: code, settings and pages, without stored records."""
    found = [ROOT / name for name in PAGES]
    for place in PLACES:
        found += [path for path in (ROOT / place).rglob("*") if path.suffix in SUFFIXES]
    stored = (ROOT / "tests" / "old", Path(__file__))
    return [path for path in found if not any(path.is_relative_to(one) for one in stored)]


@pytest.fixture(scope="module")
def words() -> dict[str, list[str]]:
    """Word, with its dots -> the places where it stands, as FILE:LINE."""
    known = re.compile(r"(?<![\w.])(?:" + "|".join(map(re.escape, CURRENT)) + r")(?!\w)")
    places: dict[str, list[str]] = {}
    for path in written_files():
        name = str(path.relative_to(ROOT))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for word in known.findall(line):
                if name not in ALLOWED.get(word, ()):
                    places.setdefault(word, []).append(f"{name}:{number}")
    return places


@pytest.mark.parametrize("name", CURRENT)
def test_a_retired_name_is_not_used(name, words):
    assert words.get(name, []) == [], f"{name} is now {CURRENT[name]}"


def test_files_that_are_named_exist():
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in written_files()
        for name in FILE.findall(path.read_text(encoding="utf-8"))
        if "NAME" not in name and name not in TO_WRITE and not (ROOT / name).exists()
    ]
    assert missing == []


def test_the_scan_reads_this_repository():
    assert {Path(ROOT / "rlrf" / "loop.py"), ROOT / "README.md"} <= set(written_files())
