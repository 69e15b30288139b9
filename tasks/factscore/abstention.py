"""Detect whether a response declines to answer.

content: what a reader sees. A response declines if it refuses or asks back, and states nothing
else about whom it was asked. generic and search: the two rule sets that FActScore published, for
comparison with its numbers. All of them count an empty response.
"""

from __future__ import annotations

import re
from typing import Literal

from harness.core.errors import UserError
from tasks.factscore.reading import MAX_SENTENCES, MAX_TEXT
from tasks.factscore.refusals import Role, role
from tasks.factscore.sentences import split

Rules = Literal["content", "generic", "search"]

# Sentences about a person, or sentences at all, that make an answer of what began with a refusal.
MIN_FACTS, MIN_STATEMENTS = 2, 4

_APOLOGY = re.compile(r"i['\N{RIGHT SINGLE QUOTATION MARK}]m sorry", re.IGNORECASE)
_ASKS_FOR_MORE = re.compile(r"\bprovide more\b", re.IGNORECASE)
_CITATION = re.compile(r"\s*+\[\d{1,4}\]")
_NOTHING_FOUND = re.compile(
    r"""
      \bcould\ not\ find\ any\ information
    | \bthe\ search\ results\ do\ not\ provide
    | \bthere\ (?:is\ no\ information | are\ no\ (?:provided\ )?search\ results)
    | \bnot\ (?:provided\ in\ the | mentioned\ in\ the\ provided)\ search\ results
    | \bthere\ seems\ to\ be\ a\ mistake\ in\ the\ question
    | \bnot?\ sources\ found
    | \btry\ a\ more\ general\ question
    """,
    re.IGNORECASE | re.VERBOSE,
)


def abstains(response: str, rules: Rules = "content") -> bool:
    """Return whether `response` says nothing about what was asked.

    content: some sentence refuses or asks who is meant, and the response neither begins with a
    statement, nor turns to one ("However, she was a painter."), nor has `MIN_FACTS` sentences
    that state something of a person.
    generic: it opens with "I'm sorry" or asks the user to provide more. search: its first
    paragraph, without citation marks, says that nothing was found.

    Raises:
        UserError: there is no such rule set.
    """
    text = response.strip()[:MAX_TEXT]
    if rules == "content":
        return not text or _only_refuses(text)
    if rules == "generic":
        return not text or bool(_APOLOGY.match(text) or _ASKS_FOR_MORE.search(text))
    if rules == "search":
        first = _CITATION.sub("", text).split("\n\n", 1)[0]
        return not first or bool(_NOTHING_FOUND.search(first))
    raise UserError(
        f"There are no abstention rules '{rules}'; choose 'content', 'generic' or 'search'."
    )


def _only_refuses(text: str) -> bool:
    roles: list[Role] = []
    for sentence in split(text)[:MAX_SENTENCES]:
        roles += role(sentence)
        if roles[-1] == "others":  # what follows is about somebody else
            break
    facts = roles.count("fact")
    statements = facts + roles.count("statement")
    if not {"refusal", "question", "others"} & set(roles):
        return "?" in text and set(roles) == {"talk"}
    telling = [found for found in roles if found not in ("aside", "talk")]
    if telling[0] in ("fact", "statement") or "turn" in telling:
        return False
    return facts < MIN_FACTS and statements < MIN_STATEMENTS
