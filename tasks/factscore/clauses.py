"""Sentences into clauses by punctuation and conjunctions: facts of a sort, for want of a model.

    Ada Lund (born 1931) was a painter and won the Eugen Medal.
    -> Ada Lund born 1931 | Ada Lund was a painter | Ada Lund won the Eugen Medal.

A clause keeps the words that a verifier looks for, not always the grammar of a sentence.
"""

from __future__ import annotations

import re

from tasks.factscore.words import stems, words

_JOINTS = "and|or|but|who|which|where|while|as well as|before|after|when|including|such as"
_CUT = re.compile(
    rf"""
      \s* [;()\N{{EM DASH}}] \s*
    | : \s+
    | , \s+ (?!\d{{4}})               # not within a date
    | \s+ (?=(?:{_JOINTS})\s)
    """,
    re.VERBOSE,
)
_JOINT = re.compile(rf"\A(?:{_JOINTS})\s+|\s+(?:{_JOINTS})\Z")
_SUBJECTS = frozenset("he she they it his her their its this these".split())


def clauses(entity: str, sentence: str) -> list[str]:
    """The clauses of `sentence` that say anything; those without a subject get `entity` for one.

    What is left of a conjunction or of the entity's name alone says nothing. A sentence of which
    nothing is left is one clause.
    """
    name = set(stems(entity))
    told = []
    for number, piece in enumerate(_CUT.split(sentence)):
        clause = _JOINT.sub("", piece.strip())
        if set(stems(clause)) - name:
            first = words(clause)[0]
            headed = first.text in _SUBJECTS or first.stem in name or number == 0
            told.append(clause if headed else f"{entity} {clause}")
    return told or [sentence]
