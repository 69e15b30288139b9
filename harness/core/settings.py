"""Files that people write, YAML or JSON, read into a record, with errors that help."""

from __future__ import annotations

import difflib
import math
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from harness.core.errors import UserError
from harness.core.schema import RESPONDED, Metric, Policy, Record, Rule, Tier

R = TypeVar("R", bound=Record)

POLICIES = Path(__file__).parent / "policies"
MAX_BYTES = 128 * 1024  # of a file
MAX_DEPTH = 50  # of brackets
MAX_VALUES = 10_000  # in a file, aliases counted as often as they stand for something


def load(path: Path, model: type[R]) -> R:
    """Read `path` as a `model`.

    Raises:
        UserError: missing, too large, not YAML, a key given twice, a value that does not fit; names
            the file and the key, and for an unknown key the nearest known one.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(f"{path} is larger than {MAX_BYTES:,} bytes; settings are expected.")
        value = yaml.load(content, _Loader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    except (AttributeError, LookupError, TypeError) as error:  # !!bool maybe, !!timestamp soon
        raise UserError(f"{path} is not YAML: a value does not fit its tag '!!'.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: keys and values are expected, such as 'alpha: 0.05'.")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, model)}") from error


def load_policy(path: Path) -> Policy:
    """Read a gate's policy: `rules`, each with task, metric, tier and margin; `alpha`, ...

        alpha: 0.05
        rules:
          - {task: gsm8k, metric: accuracy, tier: critical, margin: 0.02}

    A name without a file is one of the policies that come with the harness, such as `gsm8k`.

    Raises:
        UserError: as `load`.
    """
    if path.exists() or len(path.parts) > 1 or path.suffix:
        return load(path, Policy)
    known = sorted(found.stem for found in POLICIES.glob("*.yaml"))
    if path.name not in known:
        raise UserError(
            f"There is neither a file nor a policy called '{path}'. {_nearest(path.name, known)}"
        )
    return load(POLICIES / f"{path.name}.yaml", Policy)


def cluster_by(policy: Policy, key: str) -> Policy:
    """Return the policy with items clustered by `key`, but for rules that name another cluster.

    Raises:
        UserError: the key is not a name.
    """
    try:
        return Policy.model_validate(policy.model_dump(mode="json") | {"cluster": key})
    except ValidationError as error:
        raise UserError(f"The policy cannot cluster by that: {explain(error, Policy)}") from error


def default_policy(
    metrics: Mapping[str, Iterable[Metric]], margins: Mapping[str, float] | None = None
) -> Policy:
    """The gate where none is written: no task's primary metric may lose 5 % of its range.

    `metrics` are those of each task. Its primary one is critical, with one-sided level .05. Where
    a task says whether a model responded, that is a guardrail with the same margin: the primary
    metric is then a mean over what a model answers, and answering less must not raise it.

    `margins` name the largest tolerated loss of metrics, by METRIC (on every task that has it) or
    TASK.METRIC; a metric that is named is gated, critical if it is not the guardrail.

    Raises:
        UserError: no task has a primary metric, the range of one is not known and no margin is
            named for it, or a margin is for a metric that no task has.
    """
    left = dict(margins or {})
    named = dict(left)
    rules, unknown = [], []
    for task, found in sorted(metrics.items()):
        for metric in found:
            keys = [key for key in (f"{task}.{metric.name}", metric.name) if key in named]
            if not (metric.primary or metric.name == RESPONDED or keys):
                continue
            for key in keys:
                left.pop(key, None)
            if not keys and metric.span is None:
                unknown.append(f"{task}.{metric.name}")
                continue
            margin = named[keys[0]] if keys else 0.05 * (metric.span or 0)
            is_guardrail = metric.name == RESPONDED and not metric.primary
            tier: Tier = "guardrail" if is_guardrail else "critical"
            rules.append(Rule(task=task, metric=metric.name, tier=tier, margin=margin))
    if left:
        known = {m.name for found in metrics.values() for m in found}
        known |= {f"{task}.{m.name}" for task, found in metrics.items() for m in found}
        raise UserError(
            f"A margin is named for '{min(left)}', which no task has. {_nearest(min(left), known)}"
        )
    if unknown:
        raise UserError(
            f"The range of {', '.join(unknown[:5])} is not known, so that no margin follows from "
            "it. Name the largest loss to tolerate, in the metric's unit, such as "
            f"--margin '{unknown[0]}=0.02', or write a policy."
        )
    if not any(rule.tier == "critical" for rule in rules):
        raise UserError("No task says which metric counts: write a policy that names one.")
    return Policy(rules=rules)


def parse_margins(texts: Iterable[str]) -> dict[str, float]:
    """Read margins from METRIC=VALUE or TASK.METRIC=VALUE.

    Raises:
        UserError: one is not of that form, is not a number above 0, or is there twice.
    """
    margins: dict[str, float] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            margin = float(value)
        except ValueError:
            margin = math.nan
        if not (name and 0 < margin < math.inf):
            raise UserError(
                f"The margin '{text}' is not METRIC=VALUE with a number above 0, such as "
                "--margin acc=0.02 or --margin arc_easy.acc=0.02."
            )
        if name in margins:
            raise UserError(f"Two margins are named for {name}: keep one.")
        margins[name] = margin
    return margins


class _Loader(yaml.SafeLoader):
    """YAML where a key cannot silently replace the one of the same name before it.

    Values are counted: by aliases of aliases a few lines may stand for more than memory holds.
    """

    _nodes = 0

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        if self.flow_level >= MAX_DEPTH:
            raise yaml.YAMLError(f"its brackets are nested deeper than {MAX_DEPTH}")
        super().fetch_flow_collection_start(token)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._nodes += 1
        if self._nodes > MAX_VALUES:
            raise yaml.YAMLError(f"it has more than {MAX_VALUES:,} values")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_document(self, node: yaml.Node) -> Any:
        if _values(node, {}) > MAX_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {MAX_VALUES:,} values")
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key '{key.value}' is there twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _values(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """The values that `node` holds, those of an alias each time it is used; itself, without end."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if node not in known:
        known[node] = MAX_VALUES + 1  # what holds itself has no end
        pairs = isinstance(node, yaml.MappingNode)
        inner = [one for pair in node.value for one in pair] if pairs else node.value
        known[node] = 1 + sum(_values(one, known) for one in inner)
    return known[node]


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong first, as a sentence: the key, the fault, and the key that was meant."""
    faults = error.errors()
    # A misspelt key is often also a missing one; its spelling is what helps.
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = sorted({*_keys(model, fault["loc"][:-1])})
        return f"there is no key '{place}'. {_nearest(str(fault['loc'][-1]), known)}"
    if fault["type"] == "missing":
        return f"'{place}' is missing."
    found = fault["input"]
    shown = f", not {found!r}" if found is None or isinstance(found, str | int | float) else ""
    return f"{place}: {fault['msg'].removeprefix('Value error, ')}{shown}."


def _nearest(name: str, known: Iterable[str]) -> str:
    """Say which of the known names was meant, or list them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean '{near[0]}'?" if near else f"Known are {', '.join(names)}."


def _keys(model: type[BaseModel], place: Sequence[int | str]) -> Iterator[str]:
    """The keys that the block at `place` may have; for a block of several kinds, all of theirs."""
    models: list[Any] = [model]
    for part in place:
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        models = [found for field in fields for found in _models(field.annotation)] or models
    for found in models:
        yield from found.model_fields


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)
