"""Define how a decision stores subgroups: items that share a tag, and the verdict on each."""

from __future__ import annotations

from pydantic import Field

from harness.core.records import Name, Record, Verdict, added

SHOWN = 5  # subgroups in a table for people


class Subgrouping(Record):
    """The subgroups of a task's items by one tag, as a decision or a plan stores them."""

    names: list[Name]
    members: list[list[int]] = Field(
        description="numbers of the subgroups of each item, in order of item digest"
    )


class SubgroupCheck(Record):
    """The verdict on the items of one subgroup; `low` and `high` as in `Check`."""

    name: Name = Field(description="value of the tag; '' for all items")
    verdict: Verdict
    test: Name
    n: int
    baseline_mean: float
    candidate_mean: float
    delta: float
    stderr: float
    low: float | None = Field(description="lower end, at one-sided level alpha")
    high: float | None = Field(description="upper end, at the level of `Subgroups.level`")
    p_value: float = Field(description="one-sided, of delta <= -margin; not corrected")
    clusters: int | None = added(None, "number of clusters of its items")
    missing: int = added(0, "items without a value although the metric applies")


class Subgroups(Record):
    """The subgroups of a rule with `every`, the worst first."""

    by: Name = Field(description="the tag or field")
    level: float = Field(description="one-sided level of upper ends, corrected for their number")
    overall: SubgroupCheck = Field(description="the same test over all items; decides nothing")
    untagged: int = added(0, "items that are in no subgroup")
    results: list[SubgroupCheck] = Field(min_length=1)

    @property
    def shown(self) -> list[SubgroupCheck]:
        """The worst few, for tables that people read."""
        return self.results[:SHOWN]

    @property
    def others(self) -> str:
        """Say how many subgroups are not among the worst few, by their verdict."""
        verdicts = [result.verdict for result in self.results[SHOWN:]]
        counts = {verdict: verdicts.count(verdict) for verdict in ("fail", "inconclusive", "pass")}
        said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        return f"{len(verdicts):,} more: {said}" if verdicts else ""

    def count(self, verdict: Verdict) -> int:
        return sum(result.verdict == verdict for result in self.results)


class PlannedSubgroup(Record):
    """What the planned items of one subgroup can show."""

    name: Name
    n: int = Field(description="items with a value of the metric")
    power: float = Field(description="chance that a candidate that has not changed passes in it")
    minimum_detectable: float | None = Field(
        description="margin that such a candidate passes with power .8; None: none"
    )
    detectable_loss: float | None = Field(
        description="loss with which it fails with power .8, about; None: no loss"
    )
    clusters: int | None = added(None, "clusters that the items are in")
