"""What of a response is read: the sentences that may state facts.

A runaway response is read up to fixed limits, and what was left out is said in its score.
"""

from __future__ import annotations

import re

from tasks.factscore.sentences import split

MAX_TEXT = 200_000  # characters read of a response
MAX_SENTENCES = 200
MAX_SENTENCE = 2_000  # characters read of one

# What chat models put around an answer states nothing of the entity.
_CHAT = re.compile(r"(?:Sure|Certainly|Of course|Here is|Here's|Here are)\b.{0,200}:")
_CHAT_END = re.compile(r"(?:Please (?:note|let|feel|tell)|I hope|Let me know|Feel free)\b")
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t].*$", re.MULTILINE)
_MARKUP = re.compile(r"\*\*|__|^[ \t]*(?:[-*\u2022]|\d{1,2}[.)])[ \t]+", re.MULTILINE)


def sentences(response: str) -> tuple[list[str], str]:
    """The sentences of `response` that may state facts, and what was left unread."""
    found = split(_MARKUP.sub("", _HEADING.sub("", response[:MAX_TEXT])))
    cut = []
    if len(response) > MAX_TEXT:
        cut.append(f"characters after {MAX_TEXT:,}")
    if len(found) > MAX_SENTENCES:
        cut.append(f"sentences after {MAX_SENTENCES}, of {len(found):,}")
    if any(len(sentence) > MAX_SENTENCE for sentence in found[:MAX_SENTENCES]):
        cut.append(f"what stands after {MAX_SENTENCE:,} characters in a sentence")
    kept = [sentence[:MAX_SENTENCE] for sentence in found[:MAX_SENTENCES]]
    if kept and _CHAT.fullmatch(kept[0]):
        kept = kept[1:]
    if len(kept) > 1 and _CHAT_END.match(kept[-1]):
        kept = kept[:-1]
    return kept, f"not read: {'; '.join(cut)}" if cut else ""
