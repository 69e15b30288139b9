"""Find the subgroups of items: by topic, by difficulty, or any other tag that a rule names.

A rule with `every` is tested on each of them (`harness.gate.subgroup_test`). An item may be in
several subgroups, or in none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.core.schema import Decision, Item, Policy, Rule, check_name
from harness.core.scored import ScoredEvaluation
from harness.core.subgroups import Subgrouping
from harness.core.text import listed, quote
from harness.gate.clusters import (
    Columns,
    assign,
    places,
    plain,
    restore_clusters,
    store_clusters,
    unknown_key,
)
from harness.gate.evidence import Assigned

if TYPE_CHECKING:
    from harness.gate.plan import Plan

MAX_SUBGROUPS = 500  # of a tag; more are names of items rather than kinds of items

Members = Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]]
"""Task -> tag -> digest of an item -> its subgroups; an item without any is left out."""


@dataclass(frozen=True)
class Groups:
    """How items are grouped: in clusters, which rise and fall together, and in subgroups."""

    clusters: Assigned
    subgroups: Members

    @classmethod
    def find(
        cls,
        policy: Policy,
        baseline: Mapping[str, ScoredEvaluation],
        candidate: Mapping[str, ScoredEvaluation],
        columns: Columns | None = None,
    ) -> Groups:
        """Find what `policy` names, in `columns` or in the items that the sides keep.

        Raises:
            UserError: as `harness.gate.clusters.assign` and `assign_subgroups`.
        """
        return cls(
            assign(policy, baseline, candidate, columns),
            assign_subgroups(policy, baseline, candidate, columns),
        )

    def members(self, rule: Rule) -> Mapping[str, Sequence[str]]:
        """Return the subgroups of each item by the tag of a rule with `every`.

        Raises:
            UserError: they were not recorded.
        """
        found = self.subgroups.get(rule.task, {}).get(rule.every or "")
        if found is None:
            raise UserError(
                f"The subgroups of {rule.name} are not in what was recorded. Plan or decide anew."
            )
        return found

    def store(self, *sides: Mapping[str, ScoredEvaluation]) -> dict[str, Any]:
        """Write both as the fields `clusters` and `subgroups` of a decision or a plan."""
        return {
            "clusters": store_clusters(self.clusters, *sides),
            "subgroups": store_subgroups(self.subgroups, *sides),
        }


def restore_groups(stored: Decision | Plan, *sides: Mapping[str, ScoredEvaluation]) -> Groups:
    """Read what `Groups.store` wrote, for the same items on the same sides.

    Raises:
        UserError: they are of other items.
    """
    return Groups(
        restore_clusters(stored.clusters, *sides), restore_subgroups(stored.subgroups, *sides)
    )


def assign_subgroups(
    policy: Policy,
    baseline: Mapping[str, ScoredEvaluation],
    candidate: Mapping[str, ScoredEvaluation],
    columns: Columns | None = None,
) -> dict[str, dict[str, dict[str, Sequence[str]]]]:
    """Find the subgroups of every item, for each task and tag that a rule with `every` names.

    A tag is a column of `columns`; else a tag or field of the items, as the keys of clusters are
    (`harness.gate.clusters.assign`). An item may have several values, and is in each subgroup.

    Raises:
        UserError: no item has the tag, the tag does not divide the items, a value cannot be a name,
            or the two sides disagree.
    """
    assigned: dict[str, dict[str, dict[str, Sequence[str]]]] = {}
    for rule in policy.rules:
        sides = [side[rule.task] for side in (baseline, candidate) if rule.task in side]
        if rule.every is None or rule.every in assigned.get(rule.task, {}) or not sides:
            continue
        if columns is not None and rule.every in columns.keys:
            members = _from_columns(rule.task, rule.every, sides, columns)
        else:
            members = _from_sides(rule.task, rule.every, sides)
        _require_divided(rule.task, rule.every, members)
        assigned.setdefault(rule.task, {})[rule.every] = members
    return assigned


def require_subgroups(policy: Policy, items: Mapping[str, Sequence[Item]]) -> None:
    """Refuse tags that no item has, before the items are used.

    Raises:
        UserError: as `assign_subgroups`.
    """
    for rule in policy.rules:
        if rule.every is not None:
            by_index = subgroups_of(rule.task, rule.every, items[rule.task])
            members = {item.digest: by_index[item.index] for item in items[rule.task]}
            _require_divided(rule.task, rule.every, {i: n for i, n in members.items() if n})


def subgroups_of(task: str, key: str, items: Sequence[Item]) -> dict[int, list[str]]:
    """Return the subgroups of each item by its index; an item without the tag has none.

    Raises:
        UserError: no item has the tag, or a value of it cannot be a name.
    """
    for place in places(key):
        found = {item.index: _names(place(item), key, task, item.index) for item in items}
        if any(found.values()):
            return found
    raise unknown_key(task, key, items, "divided into subgroups")


def _names(value: object, key: str, task: str, index: int) -> list[str]:
    values = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(one, dict | list | tuple) for one in values):
        raise UserError(
            f"Item {index} of {task} has a nested value of {quote(key)}, which names no subgroup. "
            "Name one of its fields, or give a file: --clusters FILE."
        )
    names = [name for one in values if (name := plain(one)) is not None]
    return [check_name(name, f"The subgroup of item {index} of {task}") for name in names]


def _from_columns(
    task: str, key: str, sides: Sequence[ScoredEvaluation], columns: Columns
) -> dict[str, Sequence[str]]:
    given: dict[str | int, list[str]] = defaultdict(list)
    for number, item, value in columns.pairs(task, key):
        if value:
            given[item].append(check_name(value, f"{columns.source}, row {number}: the subgroup"))
    scores = {(score.index, score.item) for side in sides for score in side.scores}
    found = {item: {*given.get(item, []), *given.get(index, [])} for index, item in sorted(scores)}
    if not any(found.values()):
        raise UserError(
            f"{columns.source} gives no item of {task} a value of {quote(key)}: its column 'item' "
            "or 'index' has to name the items that were evaluated."
        )
    return {item: sorted(names) for item, names in found.items() if names}


def _from_sides(task: str, key: str, sides: Sequence[ScoredEvaluation]) -> dict[str, Sequence[str]]:
    kept = [side for side in sides if side.items]
    if not kept:
        raise UserError(
            f"A rule asks for every {quote(key)} of {task}, but neither side keeps its items (a "
            "leaderboard keeps scores alone). Say which item is in which subgroup in a file: "
            "--clusters FILE."
        )
    found: list[dict[str, Sequence[str]]] = []
    for side in kept:
        by_index = subgroups_of(task, key, side.items)
        mine: dict[str, set[str]] = defaultdict(set)
        for score in side.scores:
            mine[score.item].update(by_index.get(score.index, []))
        found.append({item: sorted(names) for item, names in mine.items()})
    for item in found[0].keys() & found[-1].keys():
        if found[0][item] != found[-1][item]:
            raise UserError(
                f"The two sides disagree about subgroups: item {item[:12]} of {task} has "
                f"{quote(key)} {listed(found[0][item], 5) or 'none'} for the baseline and "
                f"{listed(found[-1][item], 5) or 'none'} for the candidate. Evaluate both on the "
                "same items."
            )
    return {item: names for item, names in (found[0] | found[-1]).items() if names}


def _require_divided(task: str, key: str, members: Mapping[str, Sequence[str]]) -> None:
    names = {name for found in members.values() for name in found}
    if len(names) > MAX_SUBGROUPS or (len(names) > 1 and len(names) >= len(members)):
        raise UserError(
            f"{quote(key)} has {len(names):,} values among {len(members):,} items of {task}, and a "
            f"rule for every subgroup takes at most {MAX_SUBGROUPS} values that items share. Name "
            "a tag with fewer values, such as a topic."
        )


def store_subgroups(
    members: Members, *sides: Mapping[str, ScoredEvaluation]
) -> dict[str, dict[str, Subgrouping]]:
    """Write `members` as lists over the items of all sides in order of digest."""
    stored: dict[str, dict[str, Subgrouping]] = {}
    for task, tags in members.items():
        items = _digests(task, *sides)
        for key, found in tags.items():
            names = sorted({name for mine in found.values() for name in mine})
            place = {name: number for number, name in enumerate(names)}
            numbers = [[place[name] for name in found.get(item, [])] for item in items]
            stored.setdefault(task, {})[key] = Subgrouping(names=names, members=numbers)
    return stored


def restore_subgroups(
    stored: Mapping[str, Mapping[str, Subgrouping]], *sides: Mapping[str, ScoredEvaluation]
) -> dict[str, dict[str, dict[str, Sequence[str]]]]:
    """Read what `store_subgroups` wrote, for the same items on the same sides.

    Raises:
        UserError: the lists are of other items, or name a subgroup that has no name.
    """
    members: dict[str, dict[str, dict[str, Sequence[str]]]] = {}
    for task, tags in stored.items():
        items = _digests(task, *sides)
        for key, found in tags.items():
            numbers = {number for mine in found.members for number in mine}
            if len(found.members) != len(items) or not numbers <= {*range(len(found.names))}:
                raise UserError(
                    f"The recorded subgroups of {task} are of {len(found.members)} items, and "
                    f"there are {len(items)}, or they have no names: they belong to other "
                    "evaluations."
                )
            members.setdefault(task, {})[key] = {
                item: [found.names[number] for number in mine]
                for item, mine in zip(items, found.members, strict=True)
                if mine
            }
    return members


def _digests(task: str, *sides: Mapping[str, ScoredEvaluation]) -> list[str]:
    return sorted({s.item for side in sides if task in side for s in side[task].scores})
