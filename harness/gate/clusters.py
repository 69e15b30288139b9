"""Assign items to clusters: by a tag, by a field, by a field of a document, or by a column.

Items that share a passage, an entity or a template rise and fall together, so that they tell less
than as many independent items. A policy names what they share; here each item gets the number of
its cluster, and a policy that names nothing is told what its items evidently share.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError
from harness.core.schema import Item, Policy
from harness.core.scored import ScoredEvaluation
from harness.core.text import did_you_mean, listed, quote, shorten
from harness.gate.evidence import Assigned, Evidence
from harness.stats.clusters import intraclass
from harness.stats.paired import FEW_CLUSTERS

DOCUMENT = "doc."
# Fields that say what is right, not what items share.
GOLD = frozenset(
    "answer answers answerkey answer_idx correct doc_hash gold label labels output solution target "
    "target_hash".split()
)
INDEPENDENT = "they were taken for independent"  # in a note on clusters that nobody named
SHARED_LEVEL = 0.01  # of the test whether items that share a value go together
LEAST_SHARED_ITEMS = 20  # fewer show nothing about what they share
EMPTY = "it is empty or absent"


@dataclass(frozen=True)
class Columns:
    """Values of items from a file: each row names an item by digest or by index."""

    source: str
    keys: tuple[str, ...]
    rows: Sequence[Mapping[str, str]]

    def of(self, task: str, key: str) -> dict[str | int, str]:
        """Map the digest or the index of each item of `task` to its value of `key`.

        Raises:
            UserError: an item has two values, or an index is not a number.
        """
        values: dict[str | int, str] = {}
        for number, item, value in self.pairs(task, key):
            if values.setdefault(item, value) != value:
                raise UserError(
                    f"{self.source}, row {number}: item {item} is in cluster "
                    f"{quote(values[item])} and in {quote(value)}. Keep one of the two rows."
                )
        return values

    def pairs(self, task: str, key: str) -> Iterator[tuple[int, str | int, str]]:
        """Yield the number of each row of `task`, its item by digest or index, and its value.

        Raises:
            UserError: an index is not a number.
        """
        for number, row in enumerate(self.rows, 1):
            if row.get("task", task) == task:
                item = row.get("item") or _index(row.get("index", ""), self.source, number)
                yield number, item, row.get(key, "").strip()


def _index(text: str, source: str, number: int) -> int:
    if not text.strip().isascii() or not text.strip().isdigit() or len(text) > 18:
        raise UserError(
            f"{source}, row {number}: an item is named by its digest in a column 'item' or by its "
            f"number in a column 'index', which is {quote(text)} here."
        )
    return int(text)


def assign(
    policy: Policy,
    baseline: Mapping[str, ScoredEvaluation],
    candidate: Mapping[str, ScoredEvaluation],
    columns: Columns | None = None,
) -> dict[str, dict[str, dict[str, int]]]:
    """Number the cluster of every item, for each task and cluster key that the policy names.

    A key is a column of `columns`; else a tag of the items, a field of their reference or a field
    of the document that lm-eval asked (`doc.FIELD` means the last alone). A dot leads into nested
    fields.

    Raises:
        UserError: no item has the key, an item lacks it or has several values, or the two sides
            disagree.
    """
    assigned: dict[str, dict[str, dict[str, int]]] = {}
    for rule in policy.rules:
        key = policy.cluster_of(rule)
        if key is None or key in assigned.setdefault(rule.task, {}):
            continue
        sides = [side[rule.task] for side in (baseline, candidate) if rule.task in side]
        if not sides:
            continue  # an evaluation is missing, which is said elsewhere
        if columns is not None and key in columns.keys:
            names = _from_columns(rule.task, key, sides, columns)
        else:
            names = _from_items(rule.task, key, sides)
        place: dict[str, int] = {}
        assigned[rule.task][key] = {
            item: place.setdefault(names[item], len(place)) for item in sorted(names)
        }
    return {task: keys for task, keys in assigned.items() if keys}


def require_clusters(policy: Policy, items: Mapping[str, Sequence[Item]]) -> None:
    """Refuse items without a cluster in a task that the policy clusters, before they are used.

    Raises:
        UserError: as `assign`.
    """
    for rule in policy.rules:
        if key := policy.cluster_of(rule):
            number_items(rule.task, key, items[rule.task])


def number_items(task: str, key: str, items: Sequence[Item]) -> dict[str, int]:
    """Number the cluster of every item by its digest; `key` is a tag or field of the items.

    Raises:
        UserError: as `assign`.
    """
    known = {item.index: item for item in items}
    values = _values(task, key, known)
    missing = sorted(known.keys() - values.keys())
    _require_all(task, key, len(values), missing, EMPTY)
    names: dict[str, str] = {}
    for index, item in known.items():
        _join(names, task, key, item.digest, values[index])
    place: dict[str, int] = {}
    return {item: place.setdefault(names[item], len(place)) for item in sorted(names)}


def _from_columns(
    task: str, key: str, sides: Sequence[ScoredEvaluation], columns: Columns
) -> dict[str, str]:
    values = columns.of(task, key)
    names: dict[str, str] = {}
    missing = []
    for index, item in sorted({(s.index, s.item) for side in sides for s in side.scores}):
        name = values.get(item) or values.get(index)
        if name:
            _join(names, task, key, item, name)
        else:
            missing.append(index)
    _require_all(task, key, len(names), missing, f"{columns.source} has no row for it")
    return names


def _from_items(task: str, key: str, sides: Sequence[ScoredEvaluation]) -> dict[str, str]:
    kept = [side for side in sides if side.items]
    if not kept:
        raise UserError(
            f"The policy clusters {task} by {quote(key)}, but neither side keeps its items (a "
            "leaderboard keeps scores alone). Say which item is in which cluster in a file: "
            "--clusters FILE."
        )
    names: dict[str, str] = {}
    for side in kept:
        values = _values(task, key, {item.index: item for item in side.items})
        mine: dict[str, str] = {}
        for score in side.scores:
            name = values.get(score.index)
            if name is not None and mine.setdefault(score.item, name) != name:
                _join(mine, task, key, score.item, name)
        for item, name in mine.items() if names else ():
            if names.get(item, name) != name:
                index = next(score.index for score in side.scores if score.item == item)
                raise UserError(
                    f"The two sides disagree about clusters: item {index} of {task} has "
                    f"{quote(key)} {quote(names[item])} for the baseline and {quote(name)} "
                    "for the candidate. Evaluate both on the same items."
                )
        names |= mine
    missing = sorted(
        {score.index for side in sides for score in side.scores if score.item not in names}
    )
    _require_all(task, key, len(names), missing, EMPTY)
    return names


def _join(names: dict[str, str], task: str, key: str, item: str, name: str) -> None:
    if names.setdefault(item, name) != name:
        raise UserError(
            f"An item of {task} was asked twice, as part of {quote(key)} {quote(names[item])} "
            f"and of {quote(name)} ({item[:12]}). Name a cluster that holds both."
        )


def _require_all(task: str, key: str, known: int, missing: Sequence[int], why: str) -> None:
    if missing:
        raise UserError(
            f"{len(missing)} of {known + len(missing)} items of {task} have no value of "
            f"{quote(key)}, so that their cluster is not known (item {missing[0]}: {why}). Give "
            "each item one, or cluster by something that every item has."
        )


def _values(task: str, key: str, items: Mapping[int, Item]) -> dict[int, str]:
    """Read the cluster name of each item that has one, from the first place that knows the key."""
    for place in places(key):
        values = {index: _name(place(item), key, task, index) for index, item in items.items()}
        if named := {index: name for index, name in values.items() if name is not None}:
            return named
    raise unknown_key(task, key, items.values(), "clustered")


def unknown_key(task: str, key: str, items: Iterable[Item], what: str) -> UserError:
    """Return the error that no item has a value of `key`, with the keys that there are."""
    known = sorted({name for item in items for name in keys(item)})
    hint = did_you_mean(key, known) or f" They have {listed(known, 20) or 'none'}."
    return UserError(
        f"The items of {task} cannot be {what} by {quote(key)}, which is not a tag or field of "
        f"theirs.{hint}"
    )


def places(key: str) -> Iterator[Any]:
    if key.startswith(DOCUMENT):
        inner = key.removeprefix(DOCUMENT)
        yield lambda item: _inside(item.document, inner)
    yield lambda item: _inside(item.tags, key)
    yield lambda item: _inside(item.reference, key)
    yield lambda item: _inside(item.document, key)


def _inside(fields: Any, key: str) -> Any:
    if not isinstance(fields, dict):
        return None
    if key in fields:
        return fields[key]
    head, _, rest = key.partition(".")
    return _inside(fields.get(head), rest) if rest else None


def keys(item: Item) -> Iterator[str]:
    yield from item.tags
    yield from item.reference
    yield from (f"{DOCUMENT}{name}" for name in item.document)


def _name(value: Any, key: str, task: str, index: int) -> str | None:
    """Return the cluster that a field's value names; None where it is missing.

    Raises:
        UserError: several values, or none that names something.
    """
    if isinstance(value, str):
        return value.strip() or None
    values = value if isinstance(value, list | tuple) else [value]
    if len(values) == 1 and isinstance(values[0], str):
        return values[0].strip() or None
    names = {name for one in values if (name := plain(one)) is not None}
    if len(names) > 1 or any(isinstance(one, dict | list | tuple) for one in values):
        raise UserError(
            f"Item {index} of {task} has more than one value of {quote(key)}, and it can be in "
            "one cluster only. Cluster by another field, or give a file: --clusters FILE."
        )
    return names.pop() if names else None


def plain(value: Any) -> str | None:
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value == int(value) else repr(value)
    return None


def store_clusters(
    assigned: Assigned, *sides: Mapping[str, ScoredEvaluation]
) -> dict[str, dict[str, list[int]]]:
    """Write `assigned` as lists over the items of both sides in order of digest.

    An item without a cluster (one that only a later side has) is -1.
    """
    return {
        task: {key: [numbers.get(item, -1) for item in items] for key, numbers in keys.items()}
        for task, keys in assigned.items()
        for items in [_digests(task, *sides)]
    }


def restore_clusters(
    lists: Mapping[str, Mapping[str, Sequence[int]]],
    *sides: Mapping[str, ScoredEvaluation],
) -> dict[str, dict[str, dict[str, int]]]:
    """Read what `store_clusters` wrote, for the same items on the same sides.

    Raises:
        UserError: the lists are of other items.
    """
    assigned: dict[str, dict[str, dict[str, int]]] = {}
    for task, keys in lists.items():
        items = _digests(task, *sides)
        for key, numbers in keys.items():
            if len(numbers) != len(items):
                raise UserError(
                    f"The recorded clusters of {task} are of {len(numbers)} items, and there are "
                    f"{len(items)}: they belong to other evaluations."
                )
            pairs = zip(items, numbers, strict=True)
            assigned.setdefault(task, {})[key] = {i: number for i, number in pairs if number >= 0}
    return assigned


def _digests(task: str, *sides: Mapping[str, ScoredEvaluation]) -> list[str]:
    return sorted({s.item for side in sides if task in side for s in side[task].scores})


def notes(
    policy: Policy,
    gathered: Sequence[Evidence],
    baseline: Mapping[str, ScoredEvaluation],
    candidate: Mapping[str, ScoredEvaluation] | None = None,
) -> list[str]:
    """List what a reader should know of the items: clusters that were not named, or are none."""
    said = []
    for task in sorted({rule.task for rule in policy.rules}):
        mine = [evidence for evidence in gathered if evidence.rule.task == task]
        unnamed = [
            one for one in mine if policy.cluster_of(one.rule) is None and not one.rule.every
        ]
        after = candidate[task] if candidate is not None else None
        tags = {rule.every for rule in policy.rules if rule.task == task}
        said.append(suggest(task, unnamed, baseline[task], after, tags) if unnamed else "")
        alone = {policy.cluster_of(one.rule) for one in mine if one.clusters is None} - {None}
        said += [
            f"{task}: each item is alone in its '{key}', so that clusters change nothing"
            for key in sorted(filter(None, alone))
        ]
    return [note for note in said if note]


def suggest(
    task: str,
    gathered: Iterable[Evidence],
    baseline: ScoredEvaluation,
    candidate: ScoredEvaluation | None = None,
    tags: Collection[str | None] = (),
) -> str:
    """Say which cluster the items of `task` evidently have; empty where none shows.

    `tags` have rules for every subgroup: the policy knows of them.

    A tag or field is meant whose values repeat (two items each on average), and whose items go
    together: in the gains, or, from ten values on, in what the baseline scored. The level of that
    test is shared by all fields that are tried.
    """
    kept = [side for side in (baseline, candidate) if side is not None and side.items]
    if not kept:
        return ""
    side = kept[0]
    items = {item.index: item for item in side.items}
    groups = {
        key: group
        for key in _all_keys(items)
        if key not in tags and (group := _repeating(key, items))
    }
    numbered = {
        key: {score.item: group[score.index] for score in side.scores if score.index in group}
        for key, group in groups.items()
    }
    gathered = list(gathered)
    level = SHARED_LEVEL / max(1, 2 * len(groups) * len(gathered))
    strongest: dict[str, float] = {}
    seen: Sequence[str] = ()
    rows: dict[str, npt.NDArray[np.int64]] = {}
    for evidence in gathered:
        if evidence.items != seen:  # rules on the same items share the rows
            seen = evidence.items
            rows = {
                key: np.array([number.get(item, -1) for item in seen], dtype=np.int64)
                for key, number in numbered.items()
            }
        for key, shared in rows.items():
            if len(shared) < LEAST_SHARED_ITEMS or (shared < 0).any():
                continue
            columns = [evidence.candidate - evidence.baseline]
            if len(np.unique(shared)) >= FEW_CLUSTERS:
                columns.append(evidence.baseline)
            for column in columns:
                known = ~np.isnan(column)
                icc, p_value = intraclass(column[known], shared[known])
                if p_value <= level:
                    strongest[key] = max(icc, strongest.get(key, 0.0))
    if not strongest:
        return ""
    key = max(sorted(strongest), key=lambda name: strongest[name])
    return (
        f"{task}: items share {quote(key)} ({len(set(groups[key].values()))} values) and go "
        f"together in it, but {INDEPENDENT}, so that intervals may be too narrow. "
        f"Name it in the policy, cluster: {shorten(key)}, unless these values are all there are"
    )


def _all_keys(items: Mapping[int, Item]) -> list[str]:
    names: set[str] = set()
    for item in items.values():
        names.update(item.tags, item.reference)
        if item.document:
            names.update(keys(item))
    return sorted(names)


def _repeating(key: str, items: Mapping[int, Item]) -> dict[int, int]:
    """Number the values of `key` by index, where all items have one and they repeat."""
    if key.removeprefix(DOCUMENT).casefold() in GOLD:
        return {}
    read = next(places(key)) if key.startswith(DOCUMENT) else None
    place: dict[str, int] = {}
    group: dict[int, int] = {}
    most = len(items) / 2
    for index, item in items.items():
        value = read(item) if read else item.tags.get(key) or item.reference.get(key)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        name = value.strip() if isinstance(value, str) else plain(value)
        if not name:
            return {}
        group[index] = place.setdefault(name, len(place))
        if len(place) > most:
            return {}
    return group if len(place) > 1 else {}
