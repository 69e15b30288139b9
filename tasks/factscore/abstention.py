"""Does a response decline to answer? Two rule sets, after the two that were published.

"generic" is for chat models, which apologise or ask for more; "search" for assistants that answer
from search results, which report that nothing was found. Both count an empty response.
"""

from __future__ import annotations

import re
from typing import Literal

from harness.errors import UserError
from tasks.factscore.reading import MAX_TEXT

Rules = Literal["generic", "search"]

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


def abstains(response: str, rules: Rules = "generic") -> bool:
    """Whether `response` says nothing about what was asked.

    generic: it opens with "I'm sorry" or asks the user to provide more. search: its first
    paragraph, without citation marks, says that nothing was found.

    Raises:
        UserError: there is no such rule set.
    """
    text = response.strip()[:MAX_TEXT]
    if rules == "generic":
        return not text or bool(_APOLOGY.match(text) or _ASKS_FOR_MORE.search(text))
    if rules == "search":
        first = _CITATION.sub("", text).split("\n\n", 1)[0]
        return not first or bool(_NOTHING_FOUND.search(first))
    raise UserError(f"There are no abstention rules '{rules}'; choose 'generic' or 'search'.")
