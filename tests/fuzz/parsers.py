"""Every parser that meets what others wrote, as a function of bytes.

Each holds what it promises for any bytes at all: the documented result, or a `UserError`. Whatever
else is raised is a fault. Texts may hold lone surrogates, which stand for the bytes that are no
UTF-8; where a parser takes several texts or files, a `SPLIT` lies between them.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import io
import json
import math
import re
import shutil
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from csv import reader as read_csv
from pathlib import Path
from typing import Any

from helpers.build import build_evaluation

import tasks
from harness.board import Board
from harness.board import ledger as merging
from harness.board.ledger import EvaluationEntry, Row
from harness.core import files as store
from harness.core.errors import UserError
from harness.core.files import jsonl_bytes
from harness.core.run_status import SPEND
from harness.core.schema import (
    MAX_NAME_CHARS,
    Alarm,
    Call,
    Decision,
    Evaluation,
    Feedback,
    Item,
    Message,
    ModelRef,
    Policy,
    Reply,
    Rule,
    Sample,
    digest,
)
from harness.core.scored import ScoredEvaluation
from harness.core.text import NOT_IN_NAMES, visible
from harness.engines import Completion, Engine, Sampling
from harness.engines import model_folder as models
from harness.engines import resume as kept
from harness.engines.openai import OpenAIEngine
from harness.evals import evaluation, inputs, lm_eval_results
from harness.evals.lm_eval_metrics import with_baseline_definitions
from harness.evals.score import RecordedReplies, score
from harness.evals.scoring import Generation
from harness.gate import claims
from harness.gate.plan import Plan, decide_by_plan
from harness.gate.policy import load_policy
from harness.judges import llm
from harness.judges.budget import Tokens
from harness.judges.cache import Cache
from harness.judges.checks import pairwise
from harness.judges.checks.calibrate import read_labels
from harness.judges.config import load_judging
from harness.judges.critique import critique
from harness.readers import Selection
from harness.render import csv, latex, markdown
from harness.render.badge import Badge
from harness.render.github import commands, summary
from harness.render.html import judge_findings
from harness.render.html.board import board as board_page
from harness.render.html.page import embed
from harness.render.junit import decision as junit
from harness.replies import MalformedError, UnparsableReplyError, judgements, read_object
from harness.serving import wire
from harness.serving.server import CallFailedError, retry_after
from harness.serving.settings import ServerSettings
from rlrf import config, stage_commands
from rlrf import report as run_report
from rlrf import status as run_status
from rlrf.models.feedback import cases
from rlrf.models.feedback import model as asking
from rlrf.models.feedback.model import read_manifest
from rlrf.models.reward.preferences import preferences_digest, read_preferences
from rlrf.models.trained_model import split_by_prompt as split_preferences
from rlrf.objectives.dpo import ReferenceLogps
from rlrf.rlmec import show as rewrites
from rlrf.rlmec.rewriter import locate
from rlrf.rlmec.teacher import first_wrong, read_rewrite, steps
from rlrf.run import Stage, open_run
from rlrf.stage_folder import MANIFEST
from tasks.factscore.abstention import abstains
from tasks.factscore.decomposers import ByJudge as DecomposerByJudge
from tasks.factscore.decomposers import Clauses, clean_facts, load_demonstrations, parse_facts
from tasks.factscore.items import items as entities
from tasks.factscore.knowledge import Bm25, Knowledge, build_knowledge, passages_of
from tasks.factscore.lexical import Lexical
from tasks.factscore.pipeline import Biography, Claim
from tasks.factscore.text import MAX_SENTENCE, MAX_SENTENCES, clauses, sentences, split
from tasks.factscore.verifiers import verdict
from tasks.gsm8k import items as problems
from tasks.gsm8k.arithmetic import evaluate, plain, show
from tasks.gsm8k.scoring import extract, matches, readings
from tasks.gsm8k.steps import check_steps
from tasks.just_eval import judging as just_eval_judging
from tasks.just_eval.items import items as instructions
from tasks.just_eval.judging import ASPECTS, HIGHEST, LOWEST
from tasks.just_eval.judging import parse as parse_reply

SPLIT = b"\x1e"  # between the texts or files of one input

Parser = Callable[[bytes], None]
PARSERS: dict[str, Parser] = {}


def parser(function: Parser) -> Parser:
    PARSERS[function.__name__] = function
    return function


def text(data: bytes) -> str:
    try:
        found = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        found = data.decode("utf-8", "surrogateescape")
    # JSON and tokenizers give halves that meet as one character.
    return found.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def texts(data: bytes, count: int) -> list[str]:
    return [text(part) for part in parts(data, count)]


def parts(data: bytes, count: int) -> list[bytes]:
    found = data.split(SPLIT, count - 1)
    return found + [b""] * (count - len(found))


@functools.cache
def room() -> Path:
    """A folder in memory, where there is such a thing; it goes with the process."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextlib.contextmanager
def files(**content: bytes) -> Iterator[Path]:
    """A folder with these files; `a__b_json` is `a/b.json`."""
    folder = room() / "case"
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in content.items():
        stem, _, suffix = name.replace("__", "/").rpartition("_")
        path = folder / f"{stem}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with contextlib.suppress(UserError):
        yield folder


class Says:
    """A judge that gives the same reply to every call."""

    id, digest = "says", "0"

    def __init__(self, reply: Reply) -> None:
        self.reply = reply

    def ask(self, calls: Sequence[Call]) -> list[Reply]:
        for call in calls:
            json.dumps(call.model_dump(), allow_nan=False)
        return [self.reply] * len(calls)


def storable(record: Any) -> None:
    """A record can be written and is the same when it is read."""
    line = jsonl_bytes([record])
    assert digest(type(record).model_validate(json.loads(line))) == digest(record)


# Models' answers ----------------------------------------------------------------------------------


@parser
def gsm8k_answer(data: bytes) -> None:
    said = text(data)
    answer = extract(said)
    for gold in ("18", "None", "0.5", said[:50]):
        matches(answer, gold, rel_tol=1e-4)
    for value in readings(said):
        show(value, places=20)
        float(value)
    assert answer is None or len(str(answer)) < 1000


@parser
def gsm8k_arithmetic(data: bytes) -> None:
    said = text(data)
    for expression in (said, plain(said)):
        value = evaluate(expression)
        assert value is None or len(show(value)) < 1000


@parser
def gsm8k_steps(data: bytes) -> None:
    for step in check_steps(text(data)):
        assert step.line > 0 and len(str(step)) < 10_000


def scored(name: str, item: Item, response: str, reply: Reply | None = None) -> None:
    """An answer is scored and spoken of, by whatever the judge may say."""
    task = tasks.load(name)
    sample = Sample(
        task=name,
        item=item.digest,
        index=item.index,
        prompt=item.prompt,
        response=response,
        finish_reason="stop",
    )
    storable(sample)
    judge = Says(reply) if reply else None
    [score] = task.score([(item, sample)], judge)
    storable(score)
    known = {metric.name: metric for metric in task.metrics}
    assert known.keys() >= score.values.keys() | score.unscored.keys()
    for metric, value in score.values.items():
        assert known[metric].low <= value <= known[metric].high, (metric, value)
    for result in task.aggregate([score]).values():
        assert result.mean is None or math.isfinite(result.mean)
    storable(task.feedback(item, sample, score))


@functools.cache
def mini(name: str) -> Item:
    return tasks.load(name).items("sealed")[0]


@parser
def gsm8k_score(data: bytes) -> None:
    item = Item(
        task="gsm8k", split="test", index=0, prompt="?", reference={"answer": "3 * 6\n#### 18"}
    )
    scored("gsm8k", item, text(data))


@parser
def mini_gsm8k_score(data: bytes) -> None:
    scored("mini_gsm8k", mini("mini_gsm8k"), text(data))


@parser
def mini_just_eval_score(data: bytes) -> None:
    scored("mini_just_eval", mini("mini_just_eval"), text(data))


@parser
def mini_factscore_score(data: bytes) -> None:
    scored("mini_factscore", mini("mini_factscore"), text(data))


@parser
def factscore_sentences(data: bytes) -> None:
    said = text(data)
    assert "".join("".join(split(said)).split()) == "".join(said.split())
    kept, _ = sentences(said)
    assert len(kept) <= MAX_SENTENCES and all(len(one) <= MAX_SENTENCE for one in kept)
    for one in kept:
        assert clauses("Ada Lund", one)
    assert all(len(passage.split()) <= 180 for passage in passages_of(said))


@parser
def factscore_offline(data: bytes) -> None:
    """Clauses, BM25 and the lexical verifier, of an answer and the page of its entity."""
    said, page, entity = texts(data, 3)
    passages = tuple(passages_of(page[:20_000]))
    [facts] = Clauses().decompose([Biography(entity, said[:20_000], passages)], None)
    best = Bm25(5)
    claims = [Claim(entity, fact, best.retrieve(passages, fact)) for fact in facts.texts[:50]]
    [findings] = Lexical().verify([claims], None)
    assert all(finding.supported is not None for finding in findings)


@parser
def factscore_abstention(data: bytes) -> None:
    said = text(data)
    for rules in ("content", "generic", "search"):
        assert abstains(said, rules) in (True, False)


# Judges' replies ----------------------------------------------------------------------------------


@parser
def just_eval_reply(data: bytes) -> None:
    reply, answer = texts(data, 2)
    found = parse_reply(reply, ASPECTS, answer)
    assert found.keys() == set(ASPECTS)
    for one in found.values():
        assert one.score in (None, "N/A") or LOWEST <= one.score <= HIGHEST
        assert one.score is not None or one.reason


@parser
def just_eval_judgements(data: bytes) -> None:
    reply, answer = texts(data, 2)
    with contextlib.suppress(UnparsableReplyError):
        assert judgements(reply, ("better", "safety"), answer)
    with contextlib.suppress(MalformedError):
        value, end = read_object(reply, 0)
        assert 0 < end <= len(reply)
        assert all(key == key.lower() for key in value)


@functools.cache
def instruction() -> Item:
    return Item(
        task="just_eval",
        split="test",
        index=0,
        prompt="Name a river.",
        reference={"id": 0, "aspects": list(ASPECTS[:5]), "answer": "The Rhine."},
    )


@parser
def just_eval_score(data: bytes) -> None:
    reply, answer = texts(data, 2)
    scored("just_eval", instruction(), answer, Reply(text=reply))


@parser
def just_eval_critique(data: bytes) -> None:
    chosen, graded, answer = texts(data, 3)
    item = instruction()
    sample = Sample(task=item.task, item=item.digest, index=0, prompt=item.prompt, response=answer)
    replies = iter([Reply(text=chosen), Reply(text=graded)])

    class Twice(Says):
        def ask(self, calls: Sequence[Call]) -> list[Reply]:
            return [next(replies) for _ in calls]

    [found] = critique([(item, sample)], Twice(Reply()))
    assert (found.feedback is None) == bool(found.reason)
    storable(found)


@parser
def feedback_model_reply(data: bytes) -> None:
    reply = text(data)
    names = ["logical_correctness", "factuality", "readability"]
    try:
        aspects = asking.read_reply(reply, names)
    except UnparsableReplyError:
        return
    assert aspects and len({said.aspect for said in aspects}) == len(aspects)
    assert {said.aspect for said in aspects} <= set(names)
    assert all(said.justification for said in aspects)
    found = Feedback(task="", item="", aspects=aspects)
    storable(found)
    assert [said.grade for said in asking.read_reply(asking.write_reply(found), names)] == [
        said.grade for said in aspects
    ]


@parser
def rlmec_teacher(data: bytes) -> None:
    reply, response = texts(data, 2)
    try:
        rewrite = read_rewrite(Reply(text=reply), response)
    except UnparsableReplyError:
        return
    given = steps(response)
    assert 1 <= first_wrong(response, rewrite) <= len(given) + 1 or rewrite.split() == (
        response.split()
    )


@parser
def rlmec_rewriter(data: bytes) -> None:
    said, response = texts(data, 2)
    assert "".join(steps(said)) == said or not said.strip()
    assert 0 <= first_wrong(response, said) <= len(steps(response)) + 1
    item = instruction()
    sample = Sample(task=item.task, item=item.digest, index=0, prompt="", response=response)
    [number] = locate(Writes(said), [sample], {item.digest: item})
    assert number is None or 0 <= number < 10**6


class Writes(Engine):
    """An engine that completes every prompt alike."""

    name, model_id, model_digest, tokenizer = "writes", "m", "0" * 64, None

    def __init__(self, text: str) -> None:
        self.completion = Completion(text, "stop", 1, 1)

    def render(self, messages: Sequence[Message]) -> str:
        return "\n".join(message.content for message in messages)

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_done: Any = None
    ) -> list[list[Completion]]:
        return [[self.completion] * sampling.n for _ in prompts]


@parser
def factscore_facts(data: bytes) -> None:
    sentence, reply = texts(data, 2)
    for fact in clean_facts(sentence[:2000], parse_facts(reply)):
        assert fact.strip()


@functools.cache
def decomposer() -> DecomposerByJudge:
    return DecomposerByJudge(load_demonstrations(None))


@parser
def factscore_decomposer(data: bytes) -> None:
    said, reply = texts(data, 2)
    biography = Biography("Ada Lund", said[:5000], ())
    [facts] = decomposer().decompose([biography], Says(Reply(text=reply[:2000])))
    assert not (facts.failure and facts.texts)


@parser
def factscore_verdict(data: bytes) -> None:
    said, failure, statement = texts(data, 3)
    for rule in ("commitment", "published"):
        found = verdict(Reply(text=said, failure=failure), statement, rule)
        assert (found.supported is None) == bool(found.failure)


@parser
def pairwise_verdict(data: bytes) -> None:
    reply, one, other = texts(data, 3)
    found, why = pairwise.read(Reply(text=reply), (one, other))
    assert (found is None) == bool(why)
    pairwise.prompt("?", one, other)


@parser
def wire_completion(data: bytes) -> None:
    with contextlib.suppress(wire.TransientError):
        answer = llm.read(data, ("True", "False"), Tokens(10, 100))
        assert answer.reply.failure or answer.reply.text.strip()
        assert answer.used.prompt >= 0 and answer.used.completion >= 0
        storable(answer.reply)
    message = wire.error_message(data)
    assert len(message) <= wire.MAX_MESSAGE and message.isprintable()


@functools.cache
def engine() -> OpenAIEngine:
    return OpenAIEngine(ServerSettings(base_url="http://localhost/v1", model="m"))


@parser
def engine_reply(data: bytes) -> None:
    with contextlib.suppress(wire.TransientError, CallFailedError):
        found = engine()._read(data, Sampling(stop=("\n", "Q:")))
        assert not {"\n", "Q:"} & {found.text, *found.text}
        assert found.finish_reason in ("stop", "length")
        counts = (found.prompt_tokens, found.completion_tokens)
        assert all(count is None or count >= 0 for count in counts)


@parser
def wire_retry_after(data: bytes) -> None:
    wait = retry_after(text(data))
    assert wait is None or 0 <= wait < math.inf


# Files that people write --------------------------------------------------------------------------


@parser
def yaml_policy(data: bytes) -> None:
    with files(policy_yaml=data) as folder:
        storable(load_policy(folder / "policy.yaml"))


@parser
def yaml_run(data: bytes) -> None:
    with files(run_yaml=data) as folder:
        assert config.load(folder / "run.yaml").identity


@parser
def yaml_judging(data: bytes) -> None:
    with files(judge_yaml=data) as folder:
        judging = load_judging(folder / "judge.yaml")
        if judging.judge is not None:
            llm.request(judging.judge, Call(prompt="p"), ())


@parser
def yaml_prompts(data: bytes) -> None:
    with files(prompts_yaml=data) as folder:
        loaded = just_eval_judging.load(folder / "prompts.yaml")
        assert loaded.digest
        loaded.call("{{answer}}", "{{instruction}}", ASPECTS[:5])


# Data that people download ------------------------------------------------------------------------


@parser
def gsm8k_items(data: bytes) -> None:
    with files(train_jsonl=data, test_jsonl=data) as folder:
        assert len(problems.gsm8k("train", folder)) + len(problems.gsm8k("gate", folder)) == len(
            problems.gsm8k("test", folder)
        )


@parser
def gsm8k_variants(data: bytes) -> None:
    with files(SVAMP_json=data) as folder:
        problems.svamp("test", folder)
    with files(gsmhardv2_jsonl=data) as folder:
        problems.gsm_hard("test", folder)
    with files(gsmplus_testmini_jsonl=data) as folder:
        problems.gsm_plus("test", folder)


@parser
def just_eval_items(data: bytes) -> None:
    rows, lines = parts(data, 2)
    with files(rows_json=rows, lines_jsonl=lines) as folder:
        for item in instructions("test", folder):
            storable(item)


@parser
def factscore_items(data: bytes) -> None:
    names, labels = parts(data, 2)
    with files(prompt_entities_txt=names, ChatGPT_jsonl=labels) as folder:
        for item in entities("test", folder):
            storable(item)


@parser
def factscore_demonstrations(data: bytes) -> None:
    with files(demons_json=data) as folder:
        DecomposerByJudge(load_demonstrations(folder / "demons.json")).prompt("Ada Lund painted.")


@parser
def reward_preferences(data: bytes) -> None:
    with files(preferences_jsonl=data) as folder:
        found = read_preferences(folder / "preferences.jsonl")
        some, rest = split_preferences(found, 0.5, 0)
        assert len(some) + len(rest) == len(found)
        assert preferences_digest(found)


@parser
def factscore_pages(data: bytes) -> None:
    with files(pages_jsonl=data) as folder:
        count = build_knowledge(folder / "pages.jsonl", folder / "pages.db")
        with Knowledge(folder / "pages.db") as knowledge:
            assert count > 0 and knowledge.page("nobody \ud800") is None


@parser
def factscore_database(data: bytes) -> None:
    with files(pages_db=data) as folder, Knowledge(folder / "pages.db") as knowledge:
        knowledge.page("Ada Lund")


@parser
def recorded_responses(data: bytes) -> None:
    with files(responses_jsonl=data) as folder:
        score(tasks.load("mini_gsm8k"), folder / "responses.jsonl", split="sealed")


@parser
def recorded_judgments(data: bytes) -> None:
    rows, answers, judged = parts(data, 3)
    with files(rows_json=rows, answers_jsonl=answers, judged_jsonl=judged) as folder:
        score(
            "just_eval",
            folder / "answers.jsonl",
            data=folder / "rows.json",
            judge=RecordedReplies(folder / "judged.jsonl"),
            out=folder / "out",
        )
        evaluation.load(folder / "out")


@parser
def recorded_facts(data: bytes) -> None:
    answers, facts = parts(data, 2)
    with files(names_txt=b"Ada Lund\nBo Ek\n", answers_jsonl=answers, facts_jsonl=facts) as folder:
        score(
            "factscore",
            folder / "answers.jsonl",
            data=folder / "names.txt",
            facts=folder / "facts.jsonl",
            out=folder / "out",
        )
        evaluation.load(folder / "out")


@parser
def lm_eval_output(data: bytes) -> None:
    results, samples = parts(data, 2)
    with files(results_t_json=results, samples_sums_t_jsonl=samples) as folder:
        for found in lm_eval_results.load(folder).values():
            assert found.evaluation.identity
            with_baseline_definitions(found, found)


def foreign(name: str, data: bytes, selection: Selection | None = None) -> None:
    """Read results of another tool, as a file with this name."""
    with files(placeholder_txt=b"") as folder:
        (folder / name).write_bytes(data)
        with contextlib.suppress(UserError):
            side = inputs.load(folder / name, selection=selection or Selection())
            for found in side.values():
                assert found.evaluation.identity
                assert claims.contradictions(found.evaluation, found.scores) == []
                storable(found.evaluation)


@parser
def table_csv(data: bytes) -> None:
    foreign("table.csv", data, Selection("id", ("correct",)))


@parser
def table_json_lines(data: bytes) -> None:
    foreign("table.jsonl", data, Selection("id", ("correct",)))


@parser
def inspect_zip(data: bytes) -> None:
    foreign("log.eval", data)


@parser
def inspect_json(data: bytes) -> None:
    foreign("log.json", data)


@parser
def promptfoo_results(data: bytes) -> None:
    foreign("results.json", data)


@parser
def deepeval_run(data: bytes) -> None:
    foreign("test_run.json", data)


@parser
def nemo_predictions(data: bytes) -> None:
    foreign("byob_predictions.jsonl", data)


# What this program wrote, and somebody may have changed -------------------------------------------


@parser
def store_json(data: bytes) -> None:
    with files(value_json=data) as folder:
        store.read_json(folder / "value.json")


@parser
def store_jsonl(data: bytes) -> None:
    with files(lines_jsonl=data) as folder:
        store.read_jsonl(folder / "lines.jsonl")
    with files(lines_jsonl_gz=data) as folder:
        path = folder / "lines.jsonl.gz"
        (folder / "lines_jsonl.gz").rename(path)
        store.read_jsonl(path)


@parser
def evaluation_folder(data: bytes) -> None:
    about, items, samples, scores = parts(data, 4)
    with files(
        evaluation_json=about, items_jsonl=items, samples_jsonl=samples, scores_jsonl=scores
    ) as folder:
        evaluation.load(folder)


@parser
def evaluation_waiting(data: bytes) -> None:
    """Answers that were kept until they are scored."""
    about, samples = parts(data, 2)
    with files(x__generation_json=about, x__samples_jsonl=samples) as folder:
        (folder / "x").rename(folder / ".e.generated")
        generation = Generation.of(labelled().evaluation)
        evaluation.find_generated(generation, folder / "e")


@parser
def plan(data: bytes) -> None:
    with files(plan_json=data) as folder:
        found = store.parse(Plan, store.read_json(folder / "plan.json"), "plan.json")
        assert found.identity
        scored = {"mini_gsm8k": planned()}
        storable(decide_by_plan(found, scored, scored))


@parser
def board_samples(data: bytes) -> None:
    board, entry = recorded()
    name = hashlib.sha256(data).hexdigest()
    path = board.folder / "samples" / f"{name}.jsonl.gz"
    path.write_bytes(data)
    try:
        with contextlib.suppress(UserError):
            for score in board.scores(entry.model_copy(update={"samples": name})):
                storable(score)
    finally:
        path.unlink()


@parser
def run_folder(data: bytes) -> None:
    """What a run keeps of itself: what it is, what stages made, how far it is, its numbers."""
    about, manifest, progress, metrics, bill = parts(data, 5)
    folder = room() / "run"
    shutil.rmtree(folder, ignore_errors=True)
    stage = folder / "iter_1" / "explore"
    stage.mkdir(parents=True)
    (folder / "run.json").write_bytes(about)
    (stage / MANIFEST).write_bytes(manifest)
    (folder / ".progress.json").write_bytes(progress)
    (folder / "metrics.jsonl").write_bytes(metrics)
    (folder / SPEND).write_bytes(bill)
    with contextlib.suppress(UserError):
        found = run_status.status(folder)
        shown = run_status.markdown(found)
        assert visible(shown) == shown
        storable(found)
    with contextlib.suppress(UserError), open_run(folder, {"seed": 1}) as run:
        made = run.stage("iter_1/explore", [], lambda new: store.write_json(new / "x.json", 1))
        assert isinstance(made, Stage) and (made.folder / "x.json").is_file()
        run.seconds("iter_1")


@parser
def run_page(data: bytes) -> None:
    folder = room() / "page"
    if not folder.exists():
        folder.mkdir()
        (folder / "sealed").symlink_to(sealed())
    (folder / "result.json").write_bytes(data)
    with contextlib.suppress(UserError):
        page = run_report.report(folder)
        page.encode()
        assert page.count("<script") == page.count("</script>")


@parser
def stage_files(data: bytes) -> None:
    settings = config.Config(model="m", tasks=[config.TaskConfig(name="mini_gsm8k", prompts=9999)])
    with files(judged_jsonl=data) as folder, silence():
        stage_commands.pairs(settings, [folder / "judged.jsonl"], folder / "pairs.jsonl")


@parser
def kept_parts(data: bytes) -> None:
    folder = room() / "parts"
    shutil.rmtree(folder, ignore_errors=True)
    sampling = Sampling(n=2)
    keeping = kept.ResumableEngine(Writes("yes"), folder)
    keeping.generate(["a"], sampling)
    [path] = folder.rglob("*.jsonl")
    path.write_bytes(data)
    [found] = keeping.generate(["a"], sampling)
    assert len(found) == 2
    for completion in found:
        assert isinstance(completion.text, str) and completion.finish_reason in ("stop", "length")


@parser
def reference_logps(data: bytes) -> None:
    folder = room() / "logps"
    folder.mkdir(exist_ok=True)
    (folder / "r.jsonl.gz").write_bytes(data)
    found = ReferenceLogps(folder, "r")
    assert all(math.isfinite(logp) for logp in found.known.values())
    found.add({found.key([1], [2]): -1.0})
    assert ReferenceLogps(folder, "r").known == found.known


@parser
def feedback_cases(data: bytes) -> None:
    with files(records_jsonl=data) as folder:
        found = cases.read_cases([folder / "records.jsonl"], tasks.load, {})
        assert cases.cases_digest(found) and cases.usual_grades(found)
        assert all(asking.write_reply(case.feedback) for case in found)


@parser
def rlmec_rewrites(data: bytes) -> None:
    lessons, measured = parts(data, 2)
    with files(
        rewrites__rewrites_jsonl=lessons, agreement__agreement_json=measured or b"{}"
    ) as folder:
        if not measured:
            shutil.rmtree(folder / "agreement")
        found, agreement = rewrites.load(folder)
        for one in found:
            assert rewrites.text(one).plain
        page = rewrites.page(found, len(found), agreement)
        page.encode()
        assert agreement is None or agreement.sentence() is not None


@parser
def model_folder(data: bytes) -> None:
    about, trained = parts(data, 2)
    with files(config_json=about, tokenizer_json=b"{}", model_safetensors=b"") as folder:
        models.check(folder)
        assert models.model_digest(folder)
    with files(feedback_model_json=trained) as folder:
        read_manifest(folder)


@parser
def judge_finding(data: bytes) -> None:
    with files(finding_json=data) as folder:
        judge_findings.read(folder / "finding.json")


@parser
def judge_labels(data: bytes) -> None:
    with files(labels_jsonl=data) as folder:
        read_labels(folder / "labels.jsonl", labelled())


@functools.cache
def planned() -> ScoredEvaluation:
    """An evaluation that a plan is made for, and a run ends with."""
    task = tasks.load("mini_gsm8k")
    items = task.items("sealed")[:12]
    samples = [
        Sample(task=task.name, item=i.digest, index=i.index, prompt="p", response=f"#### {i.index}")
        for i in items
    ]
    return built(items, samples)


def built(items: Sequence[Item], samples: Sequence[Sample]) -> ScoredEvaluation:
    """Of mini_gsm8k."""
    return build_evaluation(
        tasks.load("mini_gsm8k"),
        items,
        samples,
        model=ModelRef(id="m", digest="d" * 64),
        engine="recorded",
        decoding={},
        split="sealed",
        prompt_digest="p",
    )


@functools.cache
def recorded() -> tuple[Board, EvaluationEntry]:
    board = Board(room() / "board")
    board.add_evaluation(labelled(), "M0", "r")
    entry = board.rows()[0].entry
    assert isinstance(entry, EvaluationEntry)
    return board, entry


@functools.cache
def sealed() -> Path:
    """The evaluations that a run ends with."""
    folder = room() / "sealed"
    for name in ("M0", "M1"):
        evaluation.save(planned(), folder / name / "mini_gsm8k")
    return folder


@contextlib.contextmanager
def silence() -> Iterator[None]:
    with contextlib.redirect_stderr(io.StringIO()):
        yield


@functools.cache
def labelled() -> ScoredEvaluation:
    item = mini("mini_gsm8k")
    sample = Sample(task=item.task, item=item.digest, index=0, prompt="", response="#### 1")
    return built([item], [sample])


@parser
def judge_cache(data: bytes) -> None:
    with (
        files(judge_sqlite=data) as folder,
        contextlib.closing(Cache(folder / "judge.sqlite")) as cache,
    ):
        cache.get(["a" * 64, "key"])
        assert cache.put("new", Reply(text="\ud800 yes")).text


@parser
def ledger(data: bytes) -> None:
    rows, head = parts(data, 2)
    with files(ledger_jsonl=rows) as folder:
        (folder / "HEAD").write_bytes(head)
        board = Board(folder)
        if not board.verify():
            page = board.rows()
            markdown.board(page)
    with files(ledger_jsonl=rows, base_jsonl=b"") as folder:
        merging.merge(
            folder / "base.jsonl", folder / "ledger.jsonl", folder / "ledger.jsonl", "ledger.jsonl"
        )
        assert (folder / "ledger.jsonl").read_bytes() == rows


# What is shown ------------------------------------------------------------------------------------

_SPECIAL = re.compile(r"(?<!\\)(?:\\\\)*([`*\[\]|~#$])")


@parser
def shown_text(data: bytes) -> None:
    said = text(data)
    seen = visible(said)
    seen.encode()
    assert json.loads(embed([said, {said: 1}])) == [seen, {seen: 1}]
    assert not set(embed(said)) & set("<>&\u2028\u2029")
    escaped = markdown.escape(said)
    assert escaped.isprintable() and not set("<>") & set(escaped)
    assert not _SPECIAL.search(escaped)
    assert latex.escape(said).isprintable()
    ET.fromstring(Badge(said, said[::-1]).svg())
    assert len(summary(said, room=500).encode()) <= 500


def rows_of(said: str) -> tuple[list[Any], Decision]:
    """Rows and a decision in which `said` is every name and every sentence."""
    from harness.board.board import _row

    name = NOT_IN_NAMES.sub("", said)[:MAX_NAME_CHARS]
    made: Evaluation = labelled().evaluation
    named = Evaluation.model_validate(
        made.model_dump()
        | {"task": name, "task_version": name, "split": name, "model": {"id": name}}
        | {"engine": name, "estimator": name, "decoding": {said: said}}
        | {"judge": {"id": name}, "code_version": name}
    )
    entry = EvaluationEntry(name=name or "m", evaluation=named, samples="0" * 64)
    alarm = Alarm(kind="length", task=name, message=said, candidate=1.0)
    decision = Decision(
        verdict="inconclusive",
        checks=[],
        reasons=[said],
        policy=Policy(rules=[Rule(task=name, metric=name, margin=0.1)]),
        policy_digest="0" * 64,
        baseline={},
        candidate={},
        alarms=[alarm],
    )
    return [_row(name, entry, "0" * 64)], decision


@parser
def shown_board(data: bytes) -> None:
    said = data[:2000].decode("utf-8", "replace")  # a name has no surrogates
    rows, decision = rows_of(said)
    named = store.parse(Row, rows[0].model_dump(mode="json"), "the row")
    assert named == rows[0]  # what was written is read again
    with contextlib.suppress(UserError):  # a name that is refused is refused in a sentence
        assert store.parse(ModelRef, {"id": said}, "the model").id == said
        assert not NOT_IN_NAMES.search(said) and len(said) <= MAX_NAME_CHARS
    for shown in (markdown.board(rows), latex.board(rows), markdown.decision(decision)):
        assert "<script" not in shown
    assert len(list(read_csv(io.StringIO(csv.board(rows), newline="")))) > 1
    ET.fromstring(junit(decision))
    assert all("\n" not in command and "\r" not in command for command in commands(decision))
    page = board_page(rows)
    page.encode()
    assert page.count("<script") == page.count("</script>") == blank_page().count("<script")


@functools.cache
def blank_page() -> str:
    return board_page(rows_of("")[0])
