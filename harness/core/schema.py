"""Define the records that every module uses: frozen, versioned, identified by their sha256."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from harness.core import records
from harness.core.decoding import normalize_decoding
from harness.core.subgroups import SubgroupCheck, Subgrouping, Subgroups

# What records are made of, under the names by which all modules import it.
SCHEMA_VERSION = records.SCHEMA_VERSION
MAX_NAME_CHARS = records.MAX_NAME_CHARS
Record = records.Record
SchemaVersion = records.SchemaVersion
Verdict = records.Verdict
Name = records.Name
Fingerprint = records.Fingerprint
added = records.added
canonical_json = records.canonical_json
check_name = records.check_name
digest = records.digest

LM_EVAL = "lm-eval"  # how the engine's name begins where lm-eval scored, not a task of ours
RESPONDED = "responded"  # the metric by which a task says whether a model answered
TESTS_VERSION = 2  # of the gate's tests; see `Decision.tests_version`

MetricKind = Literal["binary", "continuous"]
Tier = Literal["critical", "guardrail", "advisory"]
FinishReason = Literal["stop", "length"]
Estimand = Literal["items", "population"]
"""What a sequential test estimates: the planned items only, or the population they stand for."""


class Message(Record):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Item(Record):
    """One item of a benchmark: a prompt, and what scoring its responses needs."""

    task: Name
    split: Name
    index: int = Field(
        ge=0, description="position in its split, by which recorded responses name it"
    )
    prompt: str = Field(description="the user's message, before any chat template")
    reference: dict[str, Any] = Field(
        default_factory=dict, description="what scoring needs: gold, aspects, entity, ..."
    )
    tags: dict[str, list[str]] = Field(
        default_factory=dict, description="subgroups of the item, e.g. {'topic': ['stem']}"
    )
    document: dict[str, Any] = added(
        {}, "lm-eval's document, whose fields may name clusters; not part of the identity"
    )

    @property
    def digest(self) -> str:
        """Identity by content: task, prompt and reference, not position or split."""
        return digest({"task": self.task, "prompt": self.prompt, "reference": self.reference})


class Sample(Record):
    """One response of a model to one item."""

    task: Name
    item: str = Field(description="digest of the item")
    index: int
    repeat: int = 0
    prompt: str = Field(description="the text the model saw, after the chat template")
    response: str
    finish_reason: FinishReason | None = Field(
        default=None, description="None for recorded responses that do not say"
    )
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    unanswered: str = added(
        "", "why there is no response, e.g. the server's content filter; '' if there is"
    )


class Score(Record):
    """Metrics of one sample: each has a value, or a reason why it is unscored."""

    task: Name
    item: str
    index: int
    repeat: int = 0
    values: dict[str, float] = Field(default_factory=dict)
    unscored: dict[str, str] = Field(default_factory=dict, description="metric -> reason")
    details: dict[str, Any] = Field(default_factory=dict, description="evidence, for people")


class AspectFeedback(Record):
    """Feedback on one aspect of a response: a justification, then a grade of three levels."""

    aspect: str
    justification: str = Field(description="names the failing step, fact or sentence; the evidence")
    grade: Literal[0, 1, 2] = Field(description="0 poor, 1 partly right, 2 good")


class Feedback(Record):
    """Fine-grained feedback on one sample."""

    task: Name
    item: str
    aspects: list[AspectFeedback]

    @property
    def grade(self) -> float:
        """Mean grade of the aspects, in [0, 1]."""
        return sum(a.grade for a in self.aspects) / (2 * len(self.aspects)) if self.aspects else 0.0

    def text(self) -> str:
        """Join the justifications of grades below 2, one per line, for the policy model."""
        return "\n".join(a.justification for a in self.aspects if a.grade < 2)


class Metric(Record):
    """A quantity that a task measures, and how the gate reads its values."""

    name: Name
    kind: MetricKind
    low: float | None = Field(default=0.0, description="least possible value; None if not known")
    high: float | None = 1.0
    higher_is_better: bool = True
    primary: bool = Field(default=False, description="the task's headline number")
    description: str = ""

    @property
    def span(self) -> float | None:
        """Width of the range of values, or None if an end is not known."""
        return None if self.low is None or self.high is None else self.high - self.low

    @property
    def meaning(self) -> dict[str, Any]:
        """All fields that change how a value is read: without the description."""
        return self.model_dump(mode="json", exclude={"description"})


class MetricResult(Record):
    """Mean of a metric over an evaluation, with standard error and 95 % interval.

    The mean of no values, and the spread of a single value, are None.
    """

    mean: float | None
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = Field(description="items with a value")
    unscored: int = 0
    clusters: int | None = added(
        None, "clusters that the interval allows for; None: items are independent"
    )


class ModelRef(Record):
    """The model that was evaluated; `digest` covers weights, configuration and tokenizer."""

    id: Name
    digest: Fingerprint | None = Field(default=None, description="None only for recorded responses")


class JudgeRef(Record):
    """The judge that graded. Results of different judges or judge prompts are never compared."""

    id: Name
    digest: Fingerprint | None = Field(
        default=None, description="digest of revision and decoding; None only for recorded replies"
    )
    prompt_digest: Fingerprint | None = None


class Call(Record):
    """One call of a judge: everything that its reply depends on, except the judge itself."""

    prompt: str
    system: str = ""
    max_tokens: int = Field(default=1024, gt=0)
    reply_schema: dict[str, Any] | None = Field(
        default=None,
        description="JSON schema that the reply must fit, if the server can enforce it",
    )
    choices: tuple[str, ...] = Field(
        default=(),
        description="words whose probability as the first word is requested, if the server can",
    )


class Reply(Record):
    """A judge's reply: text, or the reason for its absence; a truncated reply has both."""

    text: str = ""
    failure: str = ""
    logprobs: dict[str, float] | None = Field(
        default=None, description="choice -> log-probability as the first word; None if not served"
    )


# What two evaluations of a task must have in common for their scores to be compared; besides
# these, their decoding and the definitions of their metrics.
COMPARED_FIELDS = (
    "task_version", "split", "dataset_digest", "prompt_digest", "judge", "estimator",
)  # fmt: skip


class Evaluation(Record):
    """Results of one model on one task: the unit that is gated, recorded and published."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    task: Name
    task_version: Name
    split: Name
    model: ModelRef
    engine: Name
    decoding: dict[str, Any]
    judge: JudgeRef | None = None
    estimator: Name | None = Field(
        default=None, description="e.g. FActScore's decomposer, retriever, verifier and k"
    )
    dataset_digest: Fingerprint = Field(description="digest of the item digests, in order of index")
    prompt_digest: Fingerprint = Field(
        description="digest of how prompts are made (template, shots)"
    )
    code_version: Name
    seed: int = 0
    items: int = Field(description="number of items")
    definitions: dict[Name, Metric] = Field(
        description="definition of each metric with a value per item"
    )
    metrics: dict[Name, MetricResult]
    samples_digest: Fingerprint
    scores_digest: Fingerprint

    @property
    def identity(self) -> str:
        return digest(self)

    @property
    def is_lm_eval(self) -> bool:
        """Tell whether lm-eval scored it, by a task of its own or of the user's YAML."""
        return self.engine.startswith(LM_EVAL)

    @property
    def comparable_key(self) -> str:
        """Key that is equal for two evaluations whose numbers compare."""
        fields = self.model_dump(mode="json", include={"task", *COMPARED_FIELDS})
        return digest(
            {name.removesuffix("_digest"): value for name, value in fields.items()}
            | {
                "decoding": normalize_decoding(self.decoding),
                "definitions": {name: m.meaning for name, m in self.definitions.items()},
            }
        )


FEWEST_RUNS = 5  # with fewer, a gate that allows for noise does not hold its level


class Noise(Record):
    """Differences between whole runs of one model; see `harness.stats.repeatability`."""

    sd: float = Field(
        ge=0, description="standard deviation between runs that the items do not explain"
    )
    runs: int = Field(ge=FEWEST_RUNS, description="number of runs it was measured on")


class Rule(Record):
    """A gate's requirement for one metric."""

    task: Name
    metric: Name
    tier: Tier = "critical"
    margin: float = Field(gt=0, description="largest tolerated loss, in the metric's unit")
    noise: Noise | None = added(
        None, "result of `rlrf noise`; None: runs do not differ beyond their items"
    )
    cluster: Name | None = added(
        None,
        "tag or field that items of a cluster share, e.g. passage; None: as in the policy",
        min_length=1,
    )
    allow_floor: bool = added(
        False, "let a critical check pass although its baseline is too low for it to fail"
    )
    guard: bool = added(False, "the task is never trained on: a gain on it promotes nothing")
    every: Name | None = added(
        None,
        "tag or field: the rule is about every subgroup of items that share a value, e.g. topic",
        min_length=1,
    )

    @model_validator(mode="after")
    def _noise_of_all_items(self) -> Rule:
        if self.every and self.noise:
            raise ValueError(
                "noise is measured on all items, not per subgroup; take out noise or every"
            )
        return self

    @property
    def name(self) -> str:
        return rule_name(self.task, self.metric, self.every)


def rule_name(task: str, metric: str, every: str | None) -> str:
    """Name a rule in messages and tables."""
    return f"{task} {metric}, every {every}" if every else f"{task} {metric}"


MAX_THRESHOLD = 10.0  # standard errors: no gain exceeds more by chance


class PromotionRule(Record):
    """Gain over the incumbent that a candidate needs to be promoted."""

    threshold: float = Field(
        default=1.0,
        ge=0,
        le=MAX_THRESHOLD,
        description="gain to exceed, in standard errors",
    )


class Policy(Record):
    """A gate policy: rules that are written before any score exists."""

    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="one-sided level")
    min_completeness: float = Field(default=0.995, ge=0, le=1)
    max_unscored: float = Field(default=0.01, ge=0, le=1)
    seed: int = 0
    alarms: Literal["report", "block"] = added(
        "report", "report: an alarm is shown; block: an alarm makes a pass inconclusive"
    )
    cluster: Name | None = added(
        None, "cluster for rules without one; None: items are independent", min_length=1
    )
    promotion: PromotionRule | None = added(None, "None: a gain of more than one standard error")
    allow_different: list[Annotated[str, Field(pattern=r"^decoding\.[A-Za-z0-9_]+$")]] = added(
        [], "settings that may differ between baseline and candidate, e.g. decoding.max_tokens"
    )
    rules: list[Rule] = Field(min_length=1)

    def cluster_of(self, rule: Rule) -> str | None:
        """Return the tag or field by which a rule's items are clustered, or None.

        Items of one subgroup all share its tag, which therefore divides them into no clusters.
        """
        key = rule.cluster or self.cluster
        return None if key == rule.every else key

    @property
    def tasks(self) -> list[str]:
        """Tasks of the rules."""
        return sorted({rule.task for rule in self.rules})


class Alarm(Record):
    """A warning sign that metrics may not show, for a person to look at."""

    kind: Literal["length", "truncation", "refusals", "repetition", "reward", "overlap"]
    task: Name
    message: str
    baseline: float | None = Field(
        default=None, description="value of the baseline; None if nothing is compared"
    )
    candidate: float


class Check(Record):
    """The gate's verdict on one rule; of a rule with `every`, the figures of the worst subgroup."""

    task: Name
    metric: Name
    tier: Tier
    verdict: Verdict
    label: Literal["improved", "tolerated-regression", "unchanged", "regressed", "unclear"]
    test: Name = Field(description="the test that gave the interval")
    n: int
    baseline_mean: float
    candidate_mean: float
    delta: float = Field(
        description="gain: above 0 if the candidate is better, whichever direction is better"
    )
    stderr: float
    low: float | None = Field(
        description="lower end of the 1 - 2 alpha interval of delta; None if unbounded"
    )
    high: float | None
    margin: float
    p_value: float = Field(description="one-sided, of delta <= -margin")
    improved_only: int | None = Field(default=None, description="binary: only candidate right")
    regressed_only: int | None = Field(default=None, description="binary: only baseline right")
    planned: int | None = added(None, "items planned for a check that may stop early")
    clusters: int | None = added(
        None, "number of clusters of the items; None if items are independent"
    )
    subgroups: Subgroups | None = added(None, "of a rule with `every`")
    reason: str

    @property
    def name(self) -> str:
        return rule_name(self.task, self.metric, self.subgroups.by if self.subgroups else None)

    @property
    def worst_subgroups(self) -> list[tuple[str, Check]]:
        """The name and the check of each of the worst subgroups."""
        results = self.subgroups.shown if self.subgroups else []
        return [(subgroup.name, self.of(subgroup)) for subgroup in results]

    def of(self, subgroup: SubgroupCheck) -> Check:
        """Return the check of one subgroup, or of all items, on its own."""
        figures = subgroup.model_dump(exclude={"name", "missing"})
        cleared = {"subgroups": None, "improved_only": None, "regressed_only": None, "reason": ""}
        return self.model_copy(update=figures | cleared)

    @property
    def interval(self) -> tuple[float, float]:
        """The 1 - 2 alpha interval of delta, with infinite ends where it is unbounded."""
        return (
            -math.inf if self.low is None else self.low,
            math.inf if self.high is None else self.high,
        )


def over_all_items(checks: Iterable[Check]) -> list[Check]:
    """Return one check per task and metric, over all items where a rule is about subgroups."""
    found: dict[tuple[str, str], Check] = {}
    for check in sorted(checks, key=lambda check: check.subgroups is not None):
        whole = check.of(check.subgroups.overall) if check.subgroups else check
        found.setdefault((check.task, check.metric), whole)
    return [*found.values()]


class Decision(Record):
    """The gate's verdict, with its reasons and the digests of the evaluations it used."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    verdict: Verdict
    checks: list[Check]
    reasons: list[str]
    policy: Policy
    policy_digest: Fingerprint
    baseline: dict[Name, Fingerprint] = Field(description="task -> identity of the evaluation")
    candidate: dict[Name, Fingerprint]
    plan: Fingerprint | None = added(None, "digest of the plan that the gate followed")
    alarms: list[Alarm] = added([], "alarms that were raised")
    clusters: dict[Name, dict[Name, list[int]]] = added(
        {}, "task -> cluster key -> number of each item's cluster, in order of item digest"
    )
    subgroups: dict[Name, dict[Name, Subgrouping]] = added(
        {}, "task -> tag of a rule with `every` -> subgroups of the items"
    )
    estimand: Estimand | None = added(None, "what the verdict of a sequential plan is about")
    notes: list[str] = added([], "information for readers that changes no verdict")
    tests_version: int = added(
        1,
        "version of the tests: 1 ignored skew and a baseline at the floor",
        ge=1,
        le=TESTS_VERSION,
    )


class Promotion(Record):
    """Whether a candidate becomes the incumbent; see `harness.gate.promote`."""

    promoted: bool
    reasons: list[str]
    ladder_z: float = Field(description="combined standardized gain over the incumbent")
    vs_incumbent: Fingerprint = Field(description="digest of the decision against the incumbent")
    vs_anchor: Fingerprint = Field(description="digest of the decision against the frozen anchor")


def mean(values: list[float]) -> float:
    """Return the mean by exact summation, independent of the order of the values."""
    return math.fsum(values) / len(values)
