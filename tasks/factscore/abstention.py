"""Detect whether a response declines to answer.

content: a response declines if it refuses or asks back, and states nothing else about the person.
generic and search: the two rule sets that FActScore published, for comparison with its numbers.
All of them count an empty response.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Literal

from harness.core.errors import UserError
from tasks.factscore.text import MAX_SENTENCES, MAX_TEXT, split

Rules = Literal["content", "generic", "search"]

# So many sentences about a person, or statements at all, make an answer of a refusal.
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
        if roles[-1] == "others":  # the rest is about somebody else
            break
    facts = roles.count("fact")
    statements = facts + roles.count("statement")
    if not {"refusal", "question", "others"} & set(roles):
        return "?" in text and set(roles) == {"talk"}
    telling = [found for found in roles if found not in ("aside", "talk")]
    if telling[0] in ("fact", "statement") or "turn" in telling:
        return False
    return facts < MIN_FACTS and statements < MIN_STATEMENTS


MAX_CHARS = 500  # read of a sentence

# fact: states something about a person; turn: the same, after a refusal; statement: states
# something in general; refusal: declines; question: asks who is meant; others: turns to other
# people; talk: talks to the user about something else; aside: guesses and fragments.
Role = Literal["fact", "turn", "statement", "refusal", "question", "others", "talk", "aside"]

_PART = re.compile("<([a-z_]+)>")
_FILE = tomllib.loads(Path(__file__).with_name("refusals.toml").read_text(encoding="utf-8"))


def _lines(text: str) -> list[str]:
    """Join continued lines, and insert the parts."""
    lines = [line for line in text.strip("\n").splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\n  ", "").splitlines()
    return [_PART.sub(lambda name: _lines(_FILE["parts"][name[1]])[0], line) for line in whole]


def _any(name: str, start: str = r"\b") -> re.Pattern[str]:
    """Compile the phrases called `name`, of which any has to match."""
    phrases = _lines(_FILE["phrases"][name])
    return re.compile("|".join(start + phrase for phrase in phrases), re.IGNORECASE)


_REFUSAL = _any("refusal")  # says that nothing can be said
_WHOLE_REFUSAL = _any("whole_refusal", start="^")  # as a whole sentence, and apologies
_TALK = _any("talk")  # talks to the user
_ASKS_WHO = _any("asks_who")
_OTHERS = _any("others")  # turns to other people
_ASIDE = _any("aside")  # guesses, the name itself, the writer, the reader
_ADVICE = _any("advice", start="^")
# Marks a statement about a person: a pronoun, a number, a name that does not begin it.
_NAMED = re.compile(
    r"\b(?:[Hh]e|[Ss]he|[Hh]is|[Hh]er|[Hh]im|[Tt]hey|[Tt]heir)\b|\d|(?<=\S )[^\W\d_a-z]\w*"
)
_PASSING = re.compile(  # introduces a statement
    r"^\W*i (?:can|could|may|do|will|'ll) (?:only )?(?:tell|say|share|confirm|offer|know)"
    r"(?: you)?(?: that)? ",
    re.IGNORECASE,
)
_TURN = re.compile(
    r"[,;:]?\s+(?:but|however|yet|nevertheless|nonetheless|that said|although|though)\b,?\s*"
    r"|^\W*(?:but|however|nevertheless|nonetheless|that said|still"
    r"|what i (?:do )?know is(?: that)?)\b,?\s*",
    re.IGNORECASE,
)
# A concession, or an apology for brevity, before a statement.
_CONCEDED = re.compile(
    r"^\W*(?:(?:while|although|though|even though)\b[^,:]{1,200},"
    r"|(?:i'm|i am|we're|we are)? ?(?:sorry|apologi[sz]e|apologies) (?:for|that)\b[^,:]{1,100}:)"
    r"\s+",
    re.IGNORECASE,
)
_QUOTED = re.compile('["\u201c][^"\u201c\u201d]{1,200}["\u201d]')  # titles and speech


def role(sentence: str) -> list[Role]:
    """Return the role of a sentence; one that refuses and then states something has two."""
    text = sentence[:MAX_CHARS].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").strip()
    text = _QUOTED.sub("Quoted Title", text.lstrip("#*->\u2022 ").replace("**", ""))
    if _OTHERS.search(text) and not _is_certain(text):
        return ["others"]
    if _TALK.search(text) or text.endswith("?"):
        if _ASKS_WHO.search(text):
            return ["question"]
        return ["refusal"] if _refuses(text) else ["talk"]
    if _refuses(text):
        after = _TURN.split(text)[1:] or _CONCEDED.split(text)[1:]
        if after and _states(after[-1]) == "fact" and not _refuses(after[-1]):
            return ["refusal", "turn"]
        return ["refusal"]
    turned = _TURN.match(text)
    states = _states(text[turned.end() :] if turned else text)
    return ["turn" if turned and states == "fact" else states]


def _refuses(text: str) -> bool:
    return bool(_REFUSAL.search(text) or _WHOLE_REFUSAL.search(text))


def _is_certain(text: str) -> bool:
    return not (_ASIDE.search(text) or _ADVICE.search(text))


def _states(text: str) -> Literal["fact", "statement", "aside"]:
    """Return the role of a clause that neither refuses nor asks."""
    clause = _PASSING.sub("", text)
    if len(clause.split()) < 4 or not _is_certain(clause):
        return "aside"
    return "fact" if _NAMED.search(clause) else "statement"
