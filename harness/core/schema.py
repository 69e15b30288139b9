"""Define the records that every other module uses: plain, frozen, versioned values.

The identity of a record is the sha256 of its canonical JSON. No clock, no path and no host name is
part of it.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from harness.core.decoding import normalize_decoding
from harness.core.errors import UserError
from harness.core.text import NOT_IN_NAMES

SCHEMA_VERSION = 1
RESPONDED = "responded"  # what a task calls the metric that says whether a model answered
TESTS_VERSION = 2  # of what the gate concludes from the same scores; see `Decision.tests_version`

MetricKind = Literal["binary", "continuous"]
Tier = Literal["critical", "guardrail", "advisory"]
Verdict = Literal["pass", "fail", "inconclusive"]
FinishReason = Literal["stop", "length"]
Estimand = Literal["items", "population"]
"""What a sequential test is about: the planned items alone, or all that are like them."""


def _known(version: int) -> int:
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"schema version {version}, and this program reads {SCHEMA_VERSION}; install the "
            "version of rlrf-harness that wrote it, or make it again"
        )
    return version


SchemaVersion = Annotated[int, AfterValidator(_known)]
"""Of what is stored, so that another version's is refused rather than misread."""

MAX_NAME = 1024  # characters


def _plain(name: str) -> str:
    if found := NOT_IN_NAMES.search(name):
        hidden = f"U+{ord(found[0]):04X}"
        raise ValueError(f"a name is one line of visible text, and this one has {hidden}")
    if len(name) > MAX_NAME:
        raise ValueError(f"a name has at most {MAX_NAME:,} characters, and this one {len(name):,}")
    return name


Name = Annotated[str, AfterValidator(_plain)]
"""Of a task, a metric, a model or a judge: one line, in which no character is hidden."""

_NAME: TypeAdapter[str] = TypeAdapter(Name)


def check_name(text: str, subject: str) -> str:
    """Return `text` if a record can hold it as a name.

    Raises:
        UserError: the text has hidden characters or is too long; `subject` says what it names.
    """
    try:
        return _NAME.validate_python(text)
    except ValidationError as error:
        fault = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{subject} cannot be recorded: {fault}. Choose another name.") from error


Fingerprint = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z._:-]{0,127}$")]
"""A digest, or what stands for one where others made it: no spaces, no markup, no formula."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal bytes.

    Raises:
        ValueError: a float is NaN or infinite.
        TypeError: a value is not JSON.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of `value`; a `Record` counts as its JSON form."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    # A lone surrogate in model output cannot be encoded strictly; it must not break identity.
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


class Record(BaseModel):
    """Base of every stored value: frozen, unknown keys refused, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Item(Record):
    """One thing asked: what a task hands to the explorer, the evaluator and the scorer."""

    task: Name
    split: Name
    index: int = Field(ge=0, description="position in its split; the id of recorded responses")
    prompt: str = Field(description="the user's turn, before any chat template")
    reference: dict[str, Any] = Field(
        default_factory=dict, description="what scoring needs: gold, aspects, entity, ..."
    )
    tags: dict[str, list[str]] = Field(
        default_factory=dict, description="slices this item belongs to, e.g. {'topic': ['stem']}"
    )
    document: dict[str, Any] = Field(
        default={},
        exclude_if=lambda document: not document,
        description="what lm-eval asked: its fields may name clusters; not part of the identity",
    )

    @property
    def digest(self) -> str:
        """Content identity: task, prompt and reference, not the position or the split."""
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
    unanswered: str = Field(
        default="",
        exclude_if=lambda reason: not reason,
        description="why there is no response, e.g. the server's content filter; '' if there is",
    )


class Score(Record):
    """What a sample is worth: every metric of the task has a value or a reason for its absence."""

    task: Name
    item: str
    index: int
    repeat: int = 0
    values: dict[str, float] = Field(default_factory=dict)
    unscored: dict[str, str] = Field(default_factory=dict, description="metric -> reason")
    details: dict[str, Any] = Field(default_factory=dict, description="evidence, for people")


class AspectFeedback(Record):
    """One aspect of fine-grained feedback: a justification first, then a grade of three levels."""

    aspect: str
    justification: str = Field(description="names the failing step, fact or sentence; the evidence")
    grade: Literal[0, 1, 2] = Field(description="0 poor, 1 partly right, 2 good")


class Feedback(Record):
    """Fine-grained feedback on one sample, as reflection reads it."""

    task: Name
    item: str
    aspects: list[AspectFeedback]

    @property
    def grade(self) -> float:
        """Mean grade over the aspects, in [0, 1]."""
        return sum(a.grade for a in self.aspects) / (2 * len(self.aspects)) if self.aspects else 0.0

    def text(self) -> str:
        """The justifications of what is not yet good, one a line; what the policy is shown."""
        return "\n".join(a.justification for a in self.aspects if a.grade < 2)


class Metric(Record):
    """What a task measures, and how the gate has to read it."""

    name: Name
    kind: MetricKind
    low: float | None = Field(default=0.0, description="least possible value; None: not known")
    high: float | None = 1.0
    higher_is_better: bool = True
    primary: bool = Field(default=False, description="the task's headline number")
    description: str = ""

    @property
    def span(self) -> float | None:
        """Width of the range of values, or None where an end of it is not known."""
        return None if self.low is None or self.high is None else self.high - self.low

    @property
    def meaning(self) -> dict[str, Any]:
        """Everything that changes how a value is read; the description is for people."""
        return self.model_dump(mode="json", exclude={"description"})


class MetricResult(Record):
    """A metric over an evaluation: mean with its standard error and 95 % interval.

    What cannot be known is None: the mean of nothing, the spread of one.
    """

    mean: float | None
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = Field(description="items with a value")
    unscored: int = 0
    clusters: int | None = Field(
        default=None,
        exclude_if=lambda clusters: clusters is None,
        description="that the interval allows for; None: it takes items as independent",
    )


class ModelRef(Record):
    """Which weights answered. `digest` covers weights, configuration and tokenizer."""

    id: Name
    digest: Fingerprint | None = Field(default=None, description="None only for recorded responses")


class JudgeRef(Record):
    """Who graded: results under different judges or prompts are never compared."""

    id: Name
    digest: Fingerprint | None = Field(
        default=None, description="of revision and decoding; None only for recorded replies"
    )
    prompt_digest: Fingerprint | None = None


class Call(Record):
    """One question to a judge: all that decides its reply, but for the judge itself."""

    prompt: str
    system: str = ""
    max_tokens: int = Field(default=1024, gt=0)
    reply_schema: dict[str, Any] | None = Field(
        default=None, description="JSON schema that the reply is held to, where the server can"
    )
    choices: tuple[str, ...] = Field(
        default=(), description="words whose probability as the first one is wanted, where served"
    )


class Reply(Record):
    """What a judge said: text, or the reason why there is none; a reply cut short has both."""

    text: str = ""
    failure: str = ""
    logprobs: dict[str, float] | None = Field(
        default=None, description="choice -> log-probability as the first word; None: not served"
    )


class Evaluation(Record):
    """One model on one task: the unit that is gated, recorded and published."""

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
    prompt_digest: Fingerprint = Field(description="of how prompts are made (template, shots)")
    code_version: Name
    seed: int = 0
    items: int = Field(description="items that were asked")
    definitions: dict[Name, Metric] = Field(description="how the gate reads each per-item metric")
    metrics: dict[Name, MetricResult]
    samples_digest: Fingerprint
    scores_digest: Fingerprint

    @property
    def identity(self) -> str:
        return digest(self)

    @property
    def comparable_key(self) -> str:
        """Equal for two evaluations whose numbers may stand in one ranking."""
        return digest(
            {
                "task": self.task,
                "task_version": self.task_version,
                "split": self.split,
                "dataset": self.dataset_digest,
                "prompt": self.prompt_digest,
                "judge": self.judge.model_dump(mode="json") if self.judge else None,
                "estimator": self.estimator,
                "decoding": normalize_decoding(self.decoding),
                "definitions": {name: m.meaning for name, m in self.definitions.items()},
            }
        )


FEWEST_RUNS = 5  # with fewer the level of a gate that reckons with noise is not what it says


class Noise(Record):
    """What runs of one model differ by as wholes; see `harness.stats.repeatability`."""

    sd: float = Field(
        ge=0, description="standard deviation between runs that their items do not explain"
    )
    runs: int = Field(ge=FEWEST_RUNS, description="on which it was measured")


class Rule(Record):
    """What a gate demands of one metric."""

    task: Name
    metric: Name
    tier: Tier = "critical"
    margin: float = Field(gt=0, description="largest tolerated loss, in the metric's unit")
    noise: Noise | None = Field(
        default=None,
        exclude_if=lambda noise: noise is None,
        description="what `rlrf noise` measured; None: runs do not differ beyond their items",
    )
    cluster: Name | None = Field(
        default=None,
        min_length=1,
        exclude_if=lambda cluster: cluster is None,
        description="tag or field whose items go together, e.g. passage; None: the policy's",
    )
    allow_floor: bool = Field(
        default=False,
        exclude_if=lambda allowed: not allowed,
        description="let a critical check pass whose baseline is so low that it cannot fail",
    )


MAX_THRESHOLD = 10.0  # standard errors: no gain exceeds more by chance


class PromotionRule(Record):
    """What a candidate must gain over the incumbent to be promoted."""

    threshold: float = Field(
        default=1.0,
        ge=0,
        le=MAX_THRESHOLD,
        description="gain that it has to exceed, in standard errors",
    )


class Policy(Record):
    """A gate's rules, written before any score exists."""

    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="one-sided level")
    min_completeness: float = Field(default=0.995, ge=0, le=1)
    max_unscored: float = Field(default=0.01, ge=0, le=1)
    seed: int = 0
    alarms: Literal["report", "block"] = Field(
        default="report",
        exclude_if=lambda alarms: alarms == "report",  # a ledger keeps its bytes
        description="what an alarm does to a pass: nothing, or it makes it inconclusive",
    )
    cluster: Name | None = Field(
        default=None,
        min_length=1,
        exclude_if=lambda cluster: cluster is None,
        description="cluster of the rules that name none; None: items are independent",
    )
    promotion: PromotionRule | None = Field(
        default=None,
        exclude_if=lambda promotion: promotion is None,
        description="None: a gain of more than one standard error",
    )
    allow_different: list[Annotated[str, Field(pattern=r"^decoding\.[A-Za-z0-9_]+$")]] = Field(
        default=[],
        exclude_if=lambda allowed: not allowed,
        description="settings that may differ between the sides, such as decoding.max_tokens",
    )
    rules: list[Rule] = Field(min_length=1)

    def cluster_of(self, rule: Rule) -> str | None:
        """Return what names the clusters of a rule's items; None: they are independent."""
        return rule.cluster or self.cluster

    @property
    def tasks(self) -> list[str]:
        """The tasks that the rules are about."""
        return sorted({rule.task for rule in self.rules})


class Alarm(Record):
    """Something that no metric may show and a person should look at."""

    kind: Literal["length", "truncation", "refusals", "repetition", "reward", "overlap"]
    task: Name
    message: str
    baseline: float | None = Field(default=None, description="what it was; None: not a comparison")
    candidate: float


class Check(Record):
    """The gate's finding on one rule."""

    task: Name
    metric: Name
    tier: Tier
    verdict: Verdict
    label: Literal["improved", "tolerated-regression", "unchanged", "regressed", "unclear"]
    test: Name = Field(description="the procedure that gave the interval")
    n: int
    baseline_mean: float
    candidate_mean: float
    delta: float = Field(description="gain: above 0 the candidate is better, either direction")
    stderr: float
    low: float | None = Field(
        description="lower end of the 1 - 2 alpha interval of delta; None: there is no bound"
    )
    high: float | None
    margin: float
    p_value: float = Field(description="one-sided, of delta <= -margin")
    improved_only: int | None = Field(default=None, description="binary: only candidate right")
    regressed_only: int | None = Field(default=None, description="binary: only baseline right")
    planned: int | None = Field(
        default=None,
        exclude_if=lambda planned: planned is None,
        description="items the plan had for a check that may stop early",
    )
    clusters: int | None = Field(
        default=None,
        exclude_if=lambda clusters: clusters is None,
        description="clusters that the items are in; None: each is on its own",
    )
    reason: str

    @property
    def interval(self) -> tuple[float, float]:
        """The 1 - 2 alpha interval of delta, with infinite ends where there is no bound."""
        return (
            -math.inf if self.low is None else self.low,
            math.inf if self.high is None else self.high,
        )


class Decision(Record):
    """The gate's verdict: frozen, with its reasons and the digests of all it looked at."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    verdict: Verdict
    checks: list[Check]
    reasons: list[str]
    policy: Policy
    policy_digest: Fingerprint
    baseline: dict[Name, Fingerprint] = Field(description="task -> identity of the evaluation")
    candidate: dict[Name, Fingerprint]
    plan: Fingerprint | None = Field(
        default=None,
        exclude_if=lambda plan: plan is None,
        description="digest of the plan that was written before",
    )
    alarms: list[Alarm] = Field(default=[], exclude_if=lambda alarms: not alarms)
    clusters: dict[Name, dict[Name, list[int]]] = Field(
        default={},
        exclude_if=lambda clusters: not clusters,
        description="task -> cluster key -> number of each item's cluster, in order of item digest",
    )
    estimand: Estimand | None = Field(
        default=None,
        exclude_if=lambda estimand: estimand is None,
        description="of a sequential plan: what the verdict is about",
    )
    notes: list[str] = Field(
        default=[],
        exclude_if=lambda notes: not notes,
        description="what a reader should know that changes no verdict",
    )
    tests_version: int = Field(
        default=1,
        ge=1,
        le=TESTS_VERSION,
        exclude_if=lambda version: version == 1,  # a ledger keeps its bytes
        description="of the tests: 1 knew neither skew nor a baseline at the floor",
    )


class Promotion(Record):
    """Whether a candidate becomes the incumbent; see `harness.gate.promote`."""

    promoted: bool
    reasons: list[str]
    ladder_z: float = Field(description="combined standardised gain over the incumbent")
    vs_incumbent: Fingerprint = Field(description="digest of the decision against the incumbent")
    vs_anchor: Fingerprint = Field(description="digest of the decision against the frozen anchor")


def mean(values: list[float]) -> float:
    """Arithmetic mean by exact summation, so that the order of the values does not matter."""
    return math.fsum(values) / len(values)
