"""Reports made by hand, and a page taken apart."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from harness.core.schema import AspectFeedback, JudgeRef, MetricResult, ModelRef, Policy, Rule
from harness.gate import decide
from harness.render.html.figures import Curve, Point, Step
from harness.render.html.report import Answer, Gate, Measured, Model, Question, Report, Table
from helpers.quiz import make

VOID = {"meta", "input", "br", "img", "link", "hr"}

HOSTILE = [
    "</script><script>window.pwned = 1</script>",
    "<script>window.pwned = 1</script>",
    '<img src=x onerror="window.pwned = 1">',
    "\"><svg onload=window.pwned=1><!-- '",
    "<!--<script>",
    "-->",
    "</style><style>body{display:none}</style>",
    '<a href="javascript:window.pwned=1">x</a>',
    "<base href=https://evil.example/><link rel=stylesheet href=https://evil.example/a.css>",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "${window.pwned = 1}",
    "&lt;b&gt; &#60;script&#62; &amp;",
    "]]><![CDATA[",
    "\\u003cscript\\u003e",
    "$\\frac{1}{0}$ $",
    "abc \u202edcba\u202c \u2066x\u2069 \u200f",
    "nul \x00 bell \x07 escape \x1b[31m c1 \x9b",
    "half \ud800 of a pair, and the other \udc00",
    "separators \u2028 and \u2029",
    "tags \U000e0041\U000e0042 zero\u200bwidth \ufeff",
    "__proto__",
    "constructor",
    "",
    "ünïcode 漢字 עברית 👩‍💻",
]


@dataclass
class Parsed(HTMLParser):
    """What a browser would find: elements with attributes, and the text of each kind of element."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: dict[str, list[str]] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)  # all text but of scripts and styles, in order

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        where = self.open[-1] if self.open else ""
        self.text.setdefault(where, []).append(data)
        if where not in ("script", "style"):
            self.said.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def shown(self) -> str:
        return " ".join(" ".join(self.said).split())


def parse(page: str) -> Parsed:
    parsed = Parsed()
    parsed.feed(page)
    parsed.close()
    assert not parsed.open, f"{parsed.open} were never closed"
    return parsed


def data(page: str) -> Any:
    """What the page's script reads."""
    (block,) = (part for part in parse(page).text["script"] if part.startswith("{"))
    return json.loads(block)


def simple(n: int = 4, text: str = "a short answer") -> Report:
    """Two models on `n` items of the quiz: item 0 lost, item 1 gained, the others as before."""
    rows = [[{"accuracy": float(i not in (1, 2))} for i in range(n)],
            [{"accuracy": float(i not in (0, 2))} for i in range(n)]]  # fmt: skip
    made = [make(found, model=f"m{k}") for k, found in enumerate(rows)]
    return Report(
        kind="Comparison",
        title="A title",
        verdict="pass",
        sentence="A sentence.",
        findings=["a finding"],
        split="gate",
        models=[Model("before"), Model("after", outcome="pass")],
        headline=[("quiz", "accuracy")],
        measured=[
            Measured([one.evaluation for one in made], {}, [{}, {}], [0, 0], [n, n]),
        ],
        questions=[
            Question(
                task="quiz",
                index=i,
                prompt=f"Question {i} of the quiz",
                reference=f"answer: {i}",
                tags={"topic": ["odd" if i % 2 else "even"]},
                answers=[
                    Answer(
                        response=f"{text}, {i}, of {name}",
                        values=made[k].scores[i].values,
                        unscored={},
                        feedback=[AspectFeedback(aspect="tone", justification="Calm.", grade=k)],
                        notes=[],
                    )
                    for k, name in enumerate(("before", "after"))
                ],
            )
            for i in range(n)
        ],
    )


def hostile(nasty: str) -> Report:
    """`nasty` wherever a report takes text that somebody else wrote."""
    name = nasty.encode("utf-8", "replace").decode() or "empty"
    rows = [[{"accuracy": 1.0, "grade": nasty or "no judge"}] * 3, [{"accuracy": 0.0}] * 3]
    made = [make(found) for found in rows]
    policy = Policy(rules=[Rule(task="quiz", metric="accuracy", margin=0.1)])
    decision = decide(policy, {"quiz": made[0]}, {"quiz": made[1]})
    # What is read from a file is refused where a name hides characters; a page must not need that.
    checks = [
        check.model_copy(update={"task": name, "reason": nasty, "test": nasty})
        for check in decision.checks
    ]
    decision = decision.model_copy(update={"checks": checks, "reasons": [nasty]})
    renamed = {
        "task": name,
        "model": ModelRef.model_construct(id=name, digest=name),
        "engine": name,
        "estimator": name,
        "judge": JudgeRef.model_construct(id=name, digest=name, prompt_digest=name),
        "decoding": {name: name},
        "task_version": name,
    }
    evaluations = [one.evaluation.model_copy(update=renamed) for one in made]
    results = [evaluation.metrics["accuracy"] for evaluation in evaluations]
    answers = [
        Answer(nasty, {"accuracy": k * 1.0, nasty: 1.0}, {nasty: nasty},
               [AspectFeedback(aspect=name, justification=nasty, grade=1)], [nasty])
        for k in (0, 1)
    ]  # fmt: skip
    return Report(
        kind=nasty,
        title=nasty,
        verdict="fail",
        sentence=nasty,
        findings=[nasty],
        split=nasty,
        models=[Model(name), Model(f"{name} 2", outcome=name)],
        headline=[(name, "accuracy")],
        measured=[
            Measured(
                evaluations,
                {nasty: {nasty: results}},
                [{nasty: {nasty: 3}}, {}],
                [1, 0],
                [3, 3],
            )
        ],
        questions=[Question(name, i, nasty, nasty, {nasty: [nasty]}, [*answers]) for i in range(3)],
        curves=[
            Curve(
                name,
                None,
                [Point(name, results[0], "start"), Point(f"{name} 2", results[1], name)],
                [Step(name, f"{name} 2", 0.0, 1.0)],
            )
        ],
        gates=[Gate(nasty, name, [nasty], [(nasty, decision)])],
        sealed=[Gate(nasty, name, [nasty], [(nasty, decision)])],
        optimism=Table([nasty, nasty], [[nasty, nasty]]),
        training=Table([nasty], [[nasty]]),
    )


def result(mean: float, half: float = 0.05, n: int = 100) -> MetricResult:
    return MetricResult(mean=mean, stderr=half / 2, low=mean - half, high=mean + half, n=n)
