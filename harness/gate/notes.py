"""Tell a reader of a decision what the items have in common that no rule names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from harness.core.schema import Item, Policy
from harness.core.scored import ScoredEvaluation
from harness.core.text import quote, shorten
from harness.gate.clusters import DOCUMENT, keys, places, plain
from harness.gate.evidence import Evidence
from harness.stats.intraclass import intraclass
from harness.stats.paired import FEW_CLUSTERS

# Fields that say what is right, not what items share.
GOLD = frozenset(
    "answer answers answerkey answer_idx correct doc_hash gold label labels output solution target "
    "target_hash".split()
)
INDEPENDENT = "they were taken for independent"  # in a note on clusters that nobody named
SHARED_LEVEL = 0.01  # of the test whether items that share a value go together
LEAST_SHARED_ITEMS = 20  # fewer show nothing about what they share


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
        unnamed = [one for one in mine if policy.cluster_of(one.rule) is None]
        after = candidate[task] if candidate is not None else None
        said.append(suggest(task, unnamed, baseline[task], after) if unnamed else "")
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
) -> str:
    """Say which cluster the items of `task` evidently have; empty where none shows.

    A tag or field is meant whose values repeat (two items each on average), and whose items go
    together: in the gains, or, from ten values on, in what the baseline scored. The level of that
    test is shared by all fields that are tried.
    """
    kept = [side for side in (baseline, candidate) if side is not None and side.items]
    if not kept:
        return ""
    side = kept[0]
    items = {item.index: item for item in side.items}
    groups = {key: group for key in _all_keys(items) if (group := _repeating(key, items))}
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
