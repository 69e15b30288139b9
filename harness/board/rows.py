"""Define the rows of a leaderboard's ledger and the entries that they hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from harness.core.schema import (
    SCHEMA_VERSION,
    Decision,
    Evaluation,
    Name,
    Promotion,
    Record,
    SchemaVersion,
)

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class EvaluationEntry(Record):
    """On a ledger: an evaluation, and under which name it is ranked."""

    kind: Literal["evaluation"] = "evaluation"
    name: Name = Field(min_length=1, description="of the model, e.g. M1")
    evaluation: Evaluation
    samples: str = Field(
        pattern="^[0-9a-f]{64}$",
        description="sha256 of the file of per-item scores beside the ledger",
    )


class DecisionEntry(Record):
    """On a ledger: a gate's decision, and whom the candidate met."""

    kind: Literal["decision"] = "decision"
    against: Literal["incumbent", "anchor", "sealed"]
    decision: Decision


class PromotionEntry(Record):
    """On a ledger: whether `candidate` took the place of `incumbent`."""

    kind: Literal["promotion"] = "promotion"
    candidate: Name
    incumbent: Name
    promotion: Promotion


class SupersedeEntry(Record):
    """On a ledger: an evaluation that another one replaces."""

    kind: Literal["supersede"] = "supersede"
    old: Digest = Field(description="of the entry (not the row) that no longer counts")
    new: Digest = Field(description="of the evaluation's entry that counts instead")
    reason: str = Field(min_length=1, max_length=2000)


class InvalidateEntry(Record):
    """On a ledger: an entry that no longer counts."""

    kind: Literal["invalidate"] = "invalidate"
    entry: Digest = Field(description="of the entry (not the row) that is withdrawn")
    reason: str = Field(min_length=1, max_length=2000)


class MergeEntry(Record):
    """On a ledger: branches that two people appended to are one again."""

    kind: Literal["merge"] = "merge"
    heads: list[Digest] = Field(
        min_length=1, description="of the last rows of the branches that end here"
    )


class Row(Record):
    """One line of a ledger: what was found, chained to the row it follows."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    run: Name
    entry: Annotated[
        EvaluationEntry
        | DecisionEntry
        | PromotionEntry
        | SupersedeEntry
        | InvalidateEntry
        | MergeEntry,
        Field(discriminator="kind"),
    ]
    previous: str = Field(description="of the row it follows; 64 zeros for the first")
    digest: str = Field(description="sha256 of the canonical JSON of all the other fields")
