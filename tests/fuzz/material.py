"""What the parsers are fed: whole inputs of each kind, nasty tokens, bombs, ways to spoil them."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import random
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from helpers.foreign import FIXTURES
from parsers import SPLIT, labelled, planned

import tasks
from harness.board import Board
from harness.core.files import jsonl_bytes
from harness.core.schema import Policy, Reply, Rule, Sample
from harness.engines import Completion
from harness.evals import evaluation
from harness.evals.scoring import Generation
from harness.gate import decide, plan, promote
from harness.judges.cache import Cache
from rlrf.config import Config, TaskConfig
from rlrf.feedback import Judged, give_feedback
from rlrf.models.feedback.model import Asks, FeedbackManifest, FeedbackTraining
from rlrf.objectives.dpo import CachedLogp
from rlrf.objectives.rlmec import RewriteExample
from rlrf.pairs import make_pairs
from rlrf.result import GateVerdict, Iteration, IterationMetrics, RunResult, Sealed
from rlrf.reward import reward_by_feedback
from rlrf.rlmec.rewriter import Agreement

NUMBERS = [
    *b"0 -0 -1 1e308 1e309 -1e400 1e-400 NaN Infinity -Infinity .5 5. 0x10 1_000 1,000".split(),
    *b"1,00,000 9**9**9**9 2^99 10^(10^10) 1/0 0/0 50% 1e99 3.0000000000000001 007".split(),
    *b"true null 18446744073709551616".split(),
    *(b"9" * 30, b"9" * 5000, b"1" + b",000" * 50, "٣".encode(), "¾".encode()),
]
TOKENS = [
    *NUMBERS,
    *b"{ } [ ] ( ) < > << >> \" ' ` \\ / | : , ; = # #### - * & ! % @ ~ $ ^ _ + ? .".split(),
    *b"\n \t \r \0 \x1b[2J \x7f \x85 \r\n".split(b" "),
    *b"{{ }} ${ {% <!-- --> <script> </script> ]]> ``` ```json \\u0000 \\ud800 \\udc00 \\x".split(),
    *b"\\boxed{ \\frac{ \\sqrt{ \\text{ ^{ \\left( A: answer is N/A n.a. Safety: true False".split(
        b" "
    ),
    *b"&a *a !!timestamp !!bool !!int !!float !!set !!omap !!binary !!python/name:x.y".split(),
    *b"<<: ? --- ... |+ >- %YAML 9.9".split(b" "),
    b"####SPECIAL####SEPARATOR####",
    "\u202e\u2066\u200f\u200b\ufeff".encode(),
    "\u2028\u2029\u0085".encode(),
    "e\u0301\u0301\u0301".encode(),
    "İ\u0131\u017fß\u212a".encode(),
    "漢字 עברית 👩‍💻 \U0001d7d9".encode(),
    "\ud800".encode("utf-8", "surrogatepass"),
    "\udfff\ud800".encode("utf-8", "surrogatepass"),
    b"\xff\xfe",
    b"\xc0\x80",
    b"\xef\xbb\xbf",
    b"\x1f\x8b\x08",
    b" " * 40,
    b"a" * 300,
    SPLIT,
]


def _aliases(count: int, indent: bytes = b"") -> bytes:
    """A few lines of YAML that stand for 2 ** count values."""
    lines = (b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, count))
    return b"".join(indent + line for line in (b"a0: &a0 [x, x]\n", *lines))


BOMBS: dict[str, Callable[[int], bytes]] = {
    "brackets": lambda n: b"[" * n,
    "braces": lambda n: b'{"a":' * (n // 5),
    "round brackets": lambda n: b"(" * (n // 2) + b"1" + b")" * (n // 2),
    "both brackets": lambda n: b"[{" * (n // 2),
    "open objects": lambda n: b'{"a":1 ' * (n // 7),
    "open strings": lambda n: b'{"safety": "' * (n // 12),
    "quotes": lambda n: b'"' * n,
    "quotes in a verdict": lambda n: (
        b'{"safety": {"reason": "' + b'" ' * (n // 2) + b'", "score": 5}}'
    ),
    "backslashes": lambda n: b'{"safety": "' + b"\\" * n,
    "keys": lambda n: b'{"safety": ' + b'"safety": ' * (n // 10),
    "colons": lambda n: b":" * n,
    "digits": lambda n: b"9" * n,
    "signs": lambda n: b"1" + b"-" * n + b"1",
    "decimals": lambda n: b"1." * (n // 2),
    "thousands": lambda n: b"1" + b",000" * (n // 4),
    "spaced thousands": lambda n: b"1" + b" 000" * (n // 4),
    "almost thousands": lambda n: b"#### 1" + b",0000" * (n // 5),
    "power tower": lambda n: b"9" + b"**9" * (n // 3),
    "powers": lambda n: b"#### " + b"9^" * (n // 2) + b"9",
    "sums": lambda n: b"1+" * (n // 2) + b"1 = 2",
    "equals": lambda n: b"1=" * (n // 2),
    "equations": lambda n: b"1 + 1 = 3 " * (n // 10),
    "lines of equations": lambda n: b"1 + 1 = 3\n" * (n // 10),
    "words before an equation": lambda n: b"a " * (n // 2) + b"= 3",
    "annotations": lambda n: b"<<" * (n // 2) + b"1+1=2" + b">>" * (n // 2),
    "fractions": lambda n: b"1/2 " * (n // 4),
    "mixed fractions": lambda n: b"1 1/2 " * (n // 6),
    "markers": lambda n: b"####" * (n // 4),
    "marked lines": lambda n: b"A:\n" * (n // 3),
    "answers": lambda n: b"the answer is " * (n // 14),
    "boxes": lambda n: b"\\boxed{" * (n // 7),
    "LaTeX fractions": lambda n: b"\\frac{" * (n // 6) + b"1" + b"}{2}" * (n // 6),
    "LaTeX text": lambda n: b"\\text{" * (n // 6),
    "roots": lambda n: b"#### \\sqrt{" * (n // 11),
    "emphasis": lambda n: b"**" * (n // 2),
    "bullets": lambda n: b"- a\n" * (n // 4),
    "numbered lines": lambda n: b"1. " * (n // 3),
    "stubs": lambda n: b"".join(b"- She was born in %d.\n" % i for i in range(n // 23)),
    "facts without end": lambda n: b"- " + b"a " * (n // 2),
    "capitals": lambda n: b"Ada " * (n // 4),
    "initials": lambda n: b"J. " * (n // 3),
    "stops": lambda n: b"." * n,
    "stopped words": lambda n: b"a. " * (n // 3),
    "sentences": lambda n: b"He was here. " * (n // 13),
    "citations": lambda n: b"[1] " * (n // 4),
    "spaces": lambda n: b" " * n,
    "spaces and a mark": lambda n: b" " * n + b"x",
    "blank lines": lambda n: b"\n" * n,
    "blank lines of spaces": lambda n: b" \n" * (n // 2),
    "commas": lambda n: b"," * n,
    "list of commas": lambda n: b"a, " * (n // 3),
    "one long word": lambda n: b"a" * n,
    "joints": lambda n: b"and " * (n // 4),
    "NUL": lambda n: b"\0" * n,
    "no UTF-8": lambda n: b"\xff" * n,
    "lone surrogates": lambda n: "\ud800".encode("utf-8", "surrogatepass") * (n // 3),
    "bidi": lambda n: "\u202e".encode() * (n // 3),
    "combining": lambda n: b"e" + "\u0301".encode() * (n // 2),
    "ligatures": lambda n: "\ufdfa".encode() * (n // 3),
    "dotted I": lambda n: "İ".encode() * (n // 2),
    "YAML aliases": lambda n: _aliases(min(n // 25, 60)),
    "YAML aliases in a key": lambda n: _aliases(40) + b"? *a39\n: 1\n",
    "YAML merges": lambda n: (
        b"a0: &a0 {x: 1}\n"
        + b"".join(b"a%d: &a%d {<<: [*a%d, *a%d]}\n" % (i, i, i - 1, i - 1) for i in range(1, 40))
    ),
    "YAML aliases in JSON": lambda n: (
        b"judge:\n  base_url: http://x/v1\n  model: m\n  extra_body:\n" + _aliases(40, b"    ")
    ),
    "YAML flow": lambda n: b"{a: " * (n // 4),
    "YAML keys": lambda n: b"".join(b"k%d: 1\n" % i for i in range(n // 8)),
    "YAML indents": lambda n: b"".join(b" " * i + b"- \n" for i in range(int((2 * n) ** 0.5))),
    "YAML questions": lambda n: b"? " * (n // 2),
    "YAML scalar": lambda n: b"alpha: " + b"a " * (n // 2),
    "JSON lines": lambda n: b"{}\n" * (n // 3),
    "JSON keys": lambda n: json.dumps({f"k{i}": i for i in range(n // 14)}).encode(),
    "packed": lambda n: gzip.compress(b"[" * (n * 100), mtime=0),
    "packed line": lambda n: gzip.compress(b'{"id": "' + b"x" * (n * 100), mtime=0),
    "packed and cut": lambda n: gzip.compress(random.Random(0).randbytes(n), mtime=0)[: n // 2],
    "packed and spoiled": lambda n: (
        gzip.compress(b'{"id": 1}\n' * 100, mtime=0)[:12] + b"\xff" * 20
    ),
}


@functools.cache
def whole() -> dict[str, list[bytes]]:
    """Inputs that the parsers take, by the parser's name."""
    answers = [
        b"She sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs.\nThat is 9 * $2 = $18 a day.\n#### 18",
        b"**Answer:** \\boxed{\\frac{1}{2}} or 50%, about 1,234.5 x 2\nThe answer is -3.5 million.",
        b"There is not enough information. A: None",
    ]
    lives = [
        b"Ada Lund (born 3 June 1931, in \xc3\x96rebro) was a painter. She won a medal in 1975.\n"
        b"- Dr. J. R. Berg, jr., taught her; who painted, and when?\n\nI hope this helps!",
        b"I'm sorry, but I could not find any information [1]. Please provide more context.",
    ]
    score = {"reason": "It names one.", "score": "4"}
    verdicts = [
        json.dumps(dict.fromkeys(("helpfulness", "clarity", "safety", "better"), score)).encode(),
        b'Here it is:\n```json\n{\'safety\': {"reason": "he said "no"", "rating": **5/5**,},}\n```',
        b'{"reason": "The first is right.", "better": "first"}' + SPLIT + b"The Rhine." * 5,
        b'{"verdicts": [{"aspect": "safety", "score": "N/A"}, {"aspect": "depth", "score": 3.5}]}',
    ]
    chosen = {
        "reason": "",
        "first": "factuality",
        "second": "insightfulness",
        "third": "readability",
    }
    judged = {"sentence": "The Rhine.", "justification": "It is one.", "grade": "good"}
    critiques = json.dumps(dict.fromkeys(("factuality", "insightfulness", "readability"), judged))
    logprobs = {
        "content": [{"token": "True", "top_logprobs": [{"token": " True", "logprob": -0.1}]}]
    }
    choice = {"message": {"content": "True"}, "finish_reason": "stop", "logprobs": logprobs}
    usage = {"prompt_tokens": 10, "completion_tokens": 1}
    found = {
        "wire_completion": [
            json.dumps({"choices": [choice], "usage": usage}).encode(),
            b'{"error": {"message": "too long"}}',
        ],
        "wire_retry_after": [b"3", b"0.5", b"Sun, 06 Nov 1994 08:49:37 GMT"],
        "factscore_verdict": [
            b"The statement is True.",
            b"False" + SPLIT + b"cut" + SPLIT + b"So.",
        ],
        "engine_reply": [
            json.dumps({"choices": [choice], "usage": usage}).encode(),
            b'{"choices": [{"message": {"content": null}, "finish_reason": "length"}]}',
        ],
        "rlmec_teacher": [
            b'{"reason": "No.", "first_wrong": 2, "rewrite": "1 + 1 = 2\\n#### 2"}'
            + SPLIT
            + b"Let me see.\n1 + 1 = 3\n#### 3",
            b'{"first_wrong": "3", "rewrite": "She won."}' + SPLIT + lives[0],
        ],
        "rlmec_rewriter": [b"2" + SPLIT + answers[0], answers[0] + SPLIT + lives[0]],
        "factscore_facts": [
            b"She was born on 3 June 1931 in Oslo."
            + SPLIT
            + b"- She was born.\n1. She was born in 193."
        ],
        "factscore_decomposer": [
            lives[0] + SPLIT + b"- She was a painter.\n- She won.",
            b"A." + SPLIT + b"NONE",
        ],
        "factscore_offline": [SPLIT.join([lives[0], lives[0] * 3, b"Ada Lund"])],
        "feedback_model_reply": [
            b"factuality: It is long. | The Rhine is. [2]\n- **Readability**: Fine. [1].",
            b"Sure:\nlogical correctness: Line 2 should be 21-5=16 [0]\nstyle: x [2]",
        ],
        "just_eval_critique": [
            SPLIT.join([json.dumps(chosen).encode(), critiques.encode(), b"The Rhine. It is long."])
        ],
        "yaml_policy": [
            b"alpha: 0.05\nseed: 1\nalarms: block\nrules:\n"
            b"  - {task: gsm8k, metric: accuracy, tier: critical, margin: 0.02}\n"
        ],
        "yaml_run": [
            b"model: m\nrevision: main\nadapter: {r: 8, target_modules: [q_proj]}\nseed: 3\n"
            b"tasks:\n  - {name: gsm8k, prompts: 20}\n  - name: just_eval\n    feedback: critique\n"
            b"judge: judge.yaml\ntrain: {beta: 0.1, loss: {sigmoid: 1, sft: 0.5}, bf16: null}\n"
            b"gate:\n  policy:\n    rules: [{task: gsm8k, metric: accuracy, margin: 0.1}]\n"
        ],
        "yaml_judging": [
            b"judge:\n  base_url: http://localhost:8000/v1\n  model: q\n  api_key_env: KEY\n"
            b"  extra_body: {chat_template_kwargs: {enable_thinking: false}}\n"
            b"  price: {input: 1, output: 2}\n  budget: {dollars: 5.0}\n  cache: c.db\n"
            b"just_eval: {prompt: p.yaml}\nfactscore: {knowledge: w.db, verifier: lexical, k: 3}\n"
        ],
        "yaml_prompts": [
            b"regular: |\n  {{aspects}} {{mark}}\n  {{instruction}}\n  {{answer}}\n"
            b"safety: 'safety {{ instruction }} {{answer}}'\n"
        ],
        "gsm8k_items": [
            b'{"question": "1 + 1?", "answer": "1 + 1 = 2\\n#### 2"}\n' * 3
            + b'{"question": "x", "answer": "#### 1,000"}\n'
        ],
        "gsm8k_variants": [
            b'[{"ID": "chal-1", "Body": "B.", "Question": "Q?", "Type": "Sum", '
            b'"Equation": "(1 + 1)", "Answer": 2.0}]',
            b'{"input": "q", "target": 2.5e-06}\n{"input": "r", "target": -3}\n',
            b'{"question": "q", "answer": "4.33", "solution": "####4", "perturbation_type": "p"}\n',
        ],
        "just_eval_items": [
            b'[{"id": "0", "instruction": "Name a river.", "category": "regular", '
            b'"topic": ["stem"], "source_id": "a-1"}]'
            + SPLIT
            + b'{"id": 7, "instruction": "Hm", "category": "safety"}\n'
        ],
        "factscore_items": [
            b"Ada Lund\nBo Ek\n"
            + SPLIT
            + b'{"topic": "Bo Ek", "cat": ["rare", "Asia"], "input": ""}\n'
        ],
        "factscore_demonstrations": [b'{"He sang and danced.": ["He sang.", "He danced."]}'],
        "factscore_pages": [
            b'{"title": "Ada Lund", "text": ["Ada Lund was a painter.", "She won."]}\n'
            b'{"title": "Bo Ek", "text": "<s>Bo</s>"}\n'
        ],
        "recorded_responses": [
            b"".join(
                b'{"id": %d, "response": "#### 3", "finish_reason": "stop"}\n' % item.index
                for item in tasks.load("mini_gsm8k").items("sealed")
            )
        ],
        "recorded_judgments": [
            SPLIT.join(
                [
                    b'[{"id": 4, "instruction": "Name a river.", "category": "regular"}]',
                    b'{"id": 4, "response": "The Rhine."}\n',
                    json.dumps({"id": "4", "reply": verdicts[0].decode()}).encode() + b"\n",
                ]
            )
        ],
        "recorded_facts": [
            b'{"id": 0, "response": "Ada painted."}\n{"index": 1, "response": ""}\n'
            + SPLIT
            + b'{"id": 0, "facts": [{"text": "Ada", "supported": true}], "abstained": false}\n'
        ],
        "lm_eval_output": [_lm_eval()],
        "table_csv": [b"id,correct,page\nq1,1,a\nq2,0,b\n", b"id;correct\n1;yes\n2;no\n"],
        "table_json_lines": [b'{"id": 1, "correct": true}\n{"id": "b", "correct": null}\n'],
        "inspect_zip": _foreign("inspect-*/before.eval"),
        "inspect_json": _foreign("inspect-0.3.50/before.json"),
        "promptfoo_results": _foreign("promptfoo-*/failing.json"),
        "deepeval_run": _foreign("deepeval-*/failing/*"),
        "nemo_predictions": _foreign("nemo-evaluator-*/failing/*/byob_predictions.jsonl"),
        "judge_labels": [b'{"id": 0, "accuracy": 1, "invalid": null, "prompt": "p"}\n'],
        "judge_finding": [
            b'{"canaries": []}',
            b'{"anchors": 1}',
            b'{"members": []}',
            b'{"win_rate": {}}',
        ],
        "shown_text": [b"| [x](y) `a` *b* _c_ <script>alert(1)</script> $x^2$ {} %0A ::error::"],
        "shown_board": [b"=cmd|'/c calc'!A1 <script>alert(1)</script>", b"quiz"],
        "store_jsonl": [b'{"a": 1}\n\n{"b": [2]}\n', gzip.compress(b'{"a": 1}\n', mtime=0)],
        "store_json": [b'{"a": [1, 2.5, null, "x"]}'],
    }
    found |= _written() | _of_runs()
    for name in (
        "gsm8k_answer",
        "gsm8k_arithmetic",
        "gsm8k_steps",
        "gsm8k_score",
        "mini_gsm8k_score",
    ):
        found[name] = answers
    for name in ("mini_factscore_score", "factscore_sentences", "factscore_abstention"):
        found[name] = lives
    for name in ("just_eval_reply", "just_eval_judgements", "just_eval_score", "pairwise_verdict"):
        found[name] = verdicts
    found["mini_just_eval_score"] = [*answers, *lives]
    return found


def _foreign(pattern: str) -> list[bytes]:
    """Return what other tools wrote."""
    return [path.read_bytes() for path in sorted(FIXTURES.glob(pattern))]


def _lm_eval() -> bytes:
    results = {
        "results": {"sums": {"alias": "sums", "exact_match,strict": 0.5, "acc,none": 1.0}},
        "configs": {"sums": {"test_split": "test", "generation_kwargs": {"until": ["|"]}}},
        "versions": {"sums": 2},
        "n-samples": {"sums": {"original": 2, "effective": 2}},
        "higher_is_better": {"sums": {"exact_match": True, "acc": True}},
        "config": {"model": "hf", "fewshot_seed": 1},
        "model_name": "m",
        "lm_eval_version": "0.4.13",
        "chat_template": None,
    }
    rows = [
        {
            "doc_id": i,
            "doc": {"question": f"{i} + 2?"},
            "target": str(i + 2),
            "arguments": {"gen_args_0": {"arg_0": f"{i} + 2?", "arg_1": {"until": ["|"]}}},
            "resps": [["lol"]],
            "filter": name,
            "metrics": [metric],
            "doc_hash": f"{i}",
            "prompt_hash": f"p{i}",
            "target_hash": f"t{i}",
            metric: 1.0,
        }
        for i in range(2)
        for name, metric in (("strict", "exact_match"), ("none", "acc"))
    ]
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    return json.dumps(results).encode() + SPLIT + lines


def _written() -> dict[str, list[bytes]]:
    """What this program writes, written by it."""
    made = planned()
    policy = Policy(rules=[Rule(task="mini_gsm8k", metric="accuracy", margin=0.9)])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        evaluation.save(made, folder / "e")
        evaluation.save_generated(
            Generation.of(labelled().evaluation), labelled().samples, folder / "e"
        )
        waiting = folder / ".e.generated"
        names = ("evaluation.json", "items.jsonl", "samples.jsonl", "scores.jsonl")
        saved = SPLIT.join((folder / "e" / one).read_bytes() for one in names)
        board = Board(folder / "b")
        board.add_evaluation(made, "M0", "r")
        board.add_evaluation(made, "M1", "r")
        board.invalidate(board.rows()[0].digest, "a slip")
        rows = (folder / "b" / "ledger.jsonl").read_bytes()
        head = (folder / "b" / "HEAD").read_bytes()
        cache = Cache(folder / "c.sqlite")
        cache.put("key", Reply(text="yes"))
        cache.close()
        pages = sqlite3.connect(folder / "p.db")
        pages.execute("CREATE TABLE documents (title PRIMARY KEY, text)")
        pages.execute("INSERT INTO documents VALUES ('Ada Lund', 'She painted.')")
        pages.commit()
        pages.close()
        return {
            "evaluation_folder": [saved],
            "evaluation_waiting": [
                (waiting / "generation.json").read_bytes()
                + SPLIT
                + (waiting / "samples.jsonl").read_bytes()
            ],
            "ledger": [rows + SPLIT + head],
            "plan": [plan.make_plan(policy, {"mini_gsm8k": made}).model_dump_json().encode()],
            "board_samples": [next((folder / "b" / "samples").iterdir()).read_bytes()],
            "judge_cache": [(folder / "c.sqlite").read_bytes()],
            "factscore_database": [(folder / "p.db").read_bytes()],
        }


def _of_runs() -> dict[str, list[bytes]]:
    """What a run keeps, and what its methods learn from."""
    made = planned()
    scored = {"mini_gsm8k": made}
    policy = Policy(rules=[Rule(task="mini_gsm8k", metric="accuracy", margin=0.9)])
    decision = decide(policy, scored, scored)
    gate = GateVerdict(
        vs_incumbent=decision, vs_anchor=decision, promotion=promote(decision, decision)
    )
    rows = _judged()
    with contextlib.redirect_stderr(io.StringIO()):
        settings = Config(model="m", tasks=[TaskConfig(name="mini_gsm8k")])
    responses = reward_by_feedback(rows, {"mini_gsm8k": tasks.load("mini_gsm8k")})
    pairs, lessons = make_pairs(responses, settings.pairs, 0)
    iteration = Iteration(
        number=1, explored_by="M0", candidate="M1", lessons=lessons, seconds=1.5, gate=gate
    )
    result = RunResult(
        run="r",
        folder="f",
        board="b",
        incumbent=iteration.candidate
        if iteration.outcome in ("promoted", "not enforced")
        else "M0",
        weights="w",
        shown=["mini_gsm8k accuracy"],
        iterations=[iteration],
        sealed=[
            Sealed(
                name=name,
                metrics={"mini_gsm8k accuracy": made.evaluation.metrics["accuracy"]},
                vs_anchor=against,
            )
            for name, against in (("M0", None), ("M1", decision))
        ],
    )
    numbers = IterationMetrics(
        **{"iteration": 1, "candidate": "M1", "outcome": "promoted", "lessons": 1},
        **{"chosen_refined": 0, "rejected_refined": 0, "refinements_improved": None},
        **{"training": {"loss": (1.0, 0.5)}, "explored_reward": {}, "explored_model_reward": {}},
        **{"explored_tokens": {}, "gate": {}, "gate_model_reward": {}, "gate_tokens": {}},
    )
    progress = {"pid": 1, "host": "h", "since": 1.0, "at": 2.0, "stage": "iter_1/explore"}
    progress |= {"doing": "explore", "done": 1, "total": 2, "unit": "responses", "rate": 1.0}
    manifest = {"inputs": "i", "outputs": {"x.json": "0" * 64}, "seconds": 1.5}
    kept = [progress, manifest]
    rewrite = RewriteExample(
        **{"task": "mini_gsm8k", "item": "i", "index": 0, "prompt": "p", "response": "ab"},
        **{"cut": False, "right": False, "tokens": ["a", "b"], "rewards": [0.1, -0.2]},
        **{"rewrite": "ac", "rewrite_tokens": ["a", "c"], "edited": [False, True]},
    )
    measured = Agreement(by_task={"mini_gsm8k": {"copied": made.evaluation.metrics["accuracy"]}})
    trained = FeedbackManifest(
        **{"base": "b", "cases": "c", "answers": 1, "left_out": 0, "cut": 0, "items": ["i"]},
        **{"usual": {"clarity": 2}, "training": FeedbackTraining(), "seed": 0, "files": {}},
        asks=Asks(aspects=["clarity"], reference=True, max_length=100, max_reply=10),
    )
    completions = [
        Completion(text, reason, 3, count)
        for text, reason, count in (("yes", "stop", 1), ("no \ud800", "length", None))
    ]
    known = CachedLogp(key="0" * 64, logp=-1.5)
    return {
        "run_folder": [
            SPLIT.join([b'{"seed": 1}', *(json.dumps(one).encode() for one in reversed(kept))])
            + SPLIT
            + jsonl_bytes([numbers])
            + SPLIT
            + b'{"judge": {"calls": 3, "cached": 1, "requests": 2, "prompt_tokens": 9.0}}'
        ],
        "run_page": [result.model_dump_json().encode()],
        "stage_files": [jsonl_bytes(rows)],
        "feedback_cases": [jsonl_bytes(rows)],
        "reward_preferences": [
            jsonl_bytes(pairs),
            b'{"prompt": "p", "chosen": "a", "rejected": "b", "domain": "d"}\n',
        ],
        "kept_parts": [
            jsonl_bytes([{"place": 0, "answers": [asdict(one) for one in completions]}])
        ],
        "reference_logps": [gzip.compress(jsonl_bytes([known]), mtime=0)],
        "rlmec_rewrites": [jsonl_bytes([rewrite]) + SPLIT + measured.model_dump_json().encode()],
        "model_folder": [b'{"model_type": "llama"}' + SPLIT + trained.model_dump_json().encode()],
    }


def _judged() -> list[Judged]:
    """A right and a wrong answer to a few items, with feedback, and a refinement."""
    task = tasks.load("mini_gsm8k")
    found: list[Judged] = []
    items = task.items("train")[:3]
    for item in items:
        answers = [item.reference["answer"], "1 + 1 = 3\n#### 0", "#### 1"]
        samples = [
            Sample(
                task=task.name,
                item=item.digest,
                index=item.index,
                repeat=repeat,
                prompt=item.prompt,
                response=response,
                finish_reason="stop",
            )
            for repeat, response in enumerate(answers)
        ]
        drafts = [None, None, 1]
        with contextlib.redirect_stderr(io.StringIO()):
            found += give_feedback(samples, {item.digest: item}, {task.name: task}, drafts=drafts)
    return found


_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")


def spoiled(rng: random.Random, inputs: list[bytes], largest: int = 100_000) -> bytes:
    """One of `inputs`, changed in one to five places."""
    data = rng.choice(inputs)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        data = rng.choice(_WAYS)(rng, data, inputs)[:largest]
    return data


def _token(rng: random.Random, data: bytes, _inputs: list[bytes]) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.choice(TOKENS) + data[at + rng.choice((0, 0, 1, 5)) :]


def _tokens(rng: random.Random, data: bytes, _inputs: list[bytes]) -> bytes:
    """Many nasty tokens, and little else."""
    at = rng.randint(0, len(data))
    return data[:at] + b"".join(rng.choices(TOKENS, k=rng.randint(1, 30))) + data[at:]


def _repeated(rng: random.Random, data: bytes, _inputs: list[bytes]) -> bytes:
    start = rng.randint(0, len(data))
    end = min(len(data), start + rng.choice((1, 3, 10, 50, 500)))
    return data[:end] + data[start:end] * rng.choice((1, 2, 20, 300)) + data[end:]


def _cut(rng: random.Random, data: bytes, _inputs: list[bytes]) -> bytes:
    start = rng.randint(0, len(data))
    return data[:start] + data[start + rng.choice((1, 2, 10, 100, len(data))) :]


def _flipped(rng: random.Random, data: bytes, _inputs: list[bytes]) -> bytes:
    changed = bytearray(data or b" ")
    for _ in range(rng.choice((1, 2, 8))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _crossed(rng: random.Random, data: bytes, inputs: list[bytes]) -> bytes:
    other = rng.choice(inputs)
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


def _other_number(rng: random.Random, data: bytes, _inputs: list[bytes]) -> bytes:
    found = list(_NUMBER.finditer(data[:20_000]))
    if not found:
        return data
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(NUMBERS) + data[match.end() :]


def _bombed(rng: random.Random, data: bytes, _inputs: list[bytes]) -> bytes:
    bomb = rng.choice(list(BOMBS.values()))(rng.choice((10, 100, 2000)))
    at = rng.randint(0, len(data))
    return data[:at] + bomb + data[at:]


ODD: list[Any] = [None, True, -1, 0, 2**63, 10**400, 1.5, float("nan"), float("inf"), "", "\ud800"]
ODD += ["x" * 500, "../../etc/passwd", "a/b", "\0", [], [[]], {}, {"": {}}, [None], {"value": 1}]


def _other_value(rng: random.Random, data: bytes, _inputs: list[bytes]) -> bytes:
    """JSON, where some part of a document or of a line is of another kind."""
    files = data.split(SPLIT)
    at = rng.randrange(len(files))
    lines = files[at].split(b"\n")
    place = rng.randrange(len(lines))
    try:
        value, start, end = json.loads(files[at]), None, None
    except (ValueError, RecursionError):
        try:
            value, start, end = json.loads(lines[place]), place, place + 1
        except (ValueError, RecursionError):
            return data
    try:
        told = json.dumps(_with_other(rng, value)).encode()
    except (ValueError, RecursionError):
        return data
    files[at] = told if start is None else b"\n".join([*lines[:start], told, *lines[end:]])
    return SPLIT.join(files)


def _with_other(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        changed = value.copy()
        way = rng.random()
        if way < 0.1:
            del changed[key]
        elif way < 0.2 and isinstance(changed, dict):
            changed[rng.choice(["", "a/b", "\0", "__proto__", "\ud800", "x" * 300])] = changed.pop(
                key
            )
        else:
            changed[key] = _with_other(rng, value[key])
        return changed
    return rng.choice(ODD)


_WAYS = (
    *(_token, _token, _tokens, _repeated, _cut, _flipped, _crossed, _other_number, _bombed),
    *(_other_value, _other_value),
)


def real(data: Path, parser: str, most: int = 200) -> Iterator[bytes]:
    """Real replies and data sets for a parser, from the folder of public test data."""
    wanted = {
        "gsm8k": ("gsm8k_outputs/abel_7b.json", "gsm8k_outputs/metamath_7b.json"),
        "just_eval": ("just_eval/judgments/vicuna-7b-v1.5.score_safety.chatgpt.json",),
        "factscore": ("factscore/labeled/ChatGPT.jsonl", "factscore/labeled/InstructGPT.jsonl"),
    }
    for kind, names in wanted.items():
        if parser.removeprefix("mini_").startswith(kind):
            for name in names:
                yield from _texts(data / name, most)


def _texts(path: Path, most: int) -> Iterator[bytes]:
    """The longer texts in a file, a few of each row."""
    content = path.read_text()
    rows = json.loads(content) if path.suffix == ".json" else map(json.loads, content.splitlines())
    for number, row in enumerate(rows):
        if number == most:
            return
        for value in row.values():
            if isinstance(value, str) and len(value) > 60:
                yield value[:20_000].encode("utf-8", "surrogatepass")
