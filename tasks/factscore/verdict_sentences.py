"""Read what each sentence of a judge's reply says of the statement: true, false, or nothing.

A clause is a verdict only if all its words are known (`verdict_words`), so that an unknown word
costs a verdict and never turns one around.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from tasks.factscore import verdict_words as known

MAX_WORDS = 60  # of a clause that may be a verdict

_VERDICT = known.TRUE | known.TRUE_UNLESS_DENIED | known.FALSE | known.FALSE_UNLESS_DENIED
_UNTRUE = known.FALSE | known.FALSE_UNLESS_DENIED

# The question repeated, and phrases that are rewritten before reading.
_CHOICE = re.compile(
    r"\b(?:true\s*(?:/|\||or|and/or)\s*false|false\s*(?:/|\||or)\s*true|t\s*/\s*f)\b(?:\s*[?:])?"
)
_COURTESY = re.compile(
    r"^\W*(?:(?:sure|okay|ok|certainly|of course|alright|all right|here you go)[,!.:]+\s*"
    r"|(?:yes|right|correct)[,!.:]+\s*"
    r"(?=(?:let|i can|i will|i'll|i'd|i am|i'm|happy|here|sure)\b)"
    r"|no[,!.:]+\s*"
    r"(?=i (?:can't|cannot|can not|couldn't|am (?:unable|not)|do(?:n't| not) know)\b))"
)
_CANNOT_BE = re.compile(r"\b(?:can ?not|can't|could not) be (?=(?:true|correct|right|false)\b)")
_NOT = re.compile(r"\bain't\b|(?<=\w)n't\b")
_RIGHT_ANSWER = re.compile(
    r"\b(?:correct|right|true) (?=(?:answer|response|option|verdict|label|choice)s?\b)"
)
_SAYING = re.compile(
    r"\bi(?: would|'d|'ll| will)? (?:say|answer|go with)\b"
    r"|\b(?:it can be|(?:we|i|one) can) concluded? that\b"
    r"|(?<=answer) to (?:the|this|your) question\b"
    r"|\b(?:there is )?(?:no|without(?: a)?) doubt\b(?! that)"
    r"|\bpassages? (?:\d+ )?(?:clearly )?(?:confirms?|shows?|indicates?|says?|states?) that "
    r"(?=(?:the|this) (?:statement|claim) is\b)"
)
_DISBELIEF = re.compile(
    r"\b(?:do|does) not (?:think|believe) (?:that )?"
    r"(it|this|that|the (?:statement|claim|assertion))(?: is|'s) "
    r"(?=(?:true|correct|right|accurate|supported)\b)"
)
_AND = re.compile(  # "accurate and supported"
    r" and (?=(?:is |are )?(?:not |fully |also )?(?:true|false|correct|incorrect|accurate|"
    r"inaccurate|right|wrong|supported|unsupported|factual|valid|contradicted|untrue|entailed)\b)"
)
_RIGHT = "(?:true|correct|right|accurate|supported|valid)"
_WRONG = "(?:false|incorrect|wrong|inaccurate|unsupported|untrue|invalid)"
_RATHER = r",? but (?:rather |in fact |actually |it is )?"
_NOT_BUT = re.compile(  # "not false but true": the second is the verdict
    rf"\bnot (?:{_WRONG}{_RATHER}(?={_RIGHT}\b)|{_RIGHT}{_RATHER}(?={_WRONG}\b))"
)
_COPULAS = ("is", "are", "was", "were")
# "No it is not" lacks a comma.
_LEAD = re.compile(r"^(\W*(?:true|false|yes|no)) (?=(?:the|she|he|they|there|it|this|that|i|we)\b)")
_ELLIPSIS = re.compile(r"(?:it|that|this|they|he|she) (?:is|was|does|do|did|are)( not)?")

_MARKUP = re.compile(r"\\(?:boxed|textbf|text)\b|\[/?inst\]|<[^<>\n]{1,40}>|[*`#>_$\\]|\[\d{1,3}\]")
_TAG = re.compile(r"</?\w{1,20}>")
_LIST_MARK = re.compile(r"^[ \t]*(?:[-\u2022]|\(?(?:\d{1,2}|[a-e])[.)])\s+", re.MULTILINE)
# The end of a repeated statement, unless the sentence continues after it ("... is true").
_ENDS = r"[.!](?=\s+(?!(?:is|was|are|were|be|as|ist|est|es|\xe8|\xe9|er|\xe4r)\b)\w)"
_SYMBOL = re.compile("[\u2705\u2714\u2713\u2611\u274c\u2717\u2718\u274e]")
_NUMBERED = re.compile(r"\b(nos?)\.(?=\s*\d)")  # "No. 5" is not an answer
_QUOTES = str.maketrans(
    dict.fromkeys("\u201c\u201d\xab\xbb\u201e", '"') | {"\u2019": "'", "\u2018": "'"}
)
_SENTENCE_END = re.compile(
    r"(?<![.!?\u2026])[.!?\u2026]++[\"')\]]*+(?=\s|$)|[\u3002\uff01\uff1f\u0964\u06d4\u061f]++"
)
_SEPARATOR = re.compile(
    r"([,;:()\[\]{}\"\u2014\u2013=\u2192|/\u3001\uff0c]|\s-+\s|\s-+$|^-+\s|->"
    r"|\b(?:but|however|although|though)\b)"
)
_TURNING = ("but", "however", "although", "though")
_POINTING = (":", "=", "->", "\u2192", "-", "\u2014", "\u2013")
_PROVISO = frozenset(("provided", "providing"))
_CAUSES = frozenset(("because", "since", "per", "given"))

_UNSPACED_LETTER = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
_UNSPACED_COMMA = re.compile(r"[,:\u3001\uff0c\uff1a]")
_UNSPACED = re.compile(
    rf"{known.UNSPACED_BEFORE}(?:(?P<true>{known.UNSPACED_TRUE})|{known.UNSPACED_FALSE})"
    rf"{known.UNSPACED_AFTER}"
)

# bare: a verdict by itself or after a label; statement: about "the statement", or drawn as a
# conclusion; pronoun: about "it"; open: hedged or conditional; conflict: both at once; none.
Kind = Literal["bare", "statement", "pronoun", "open", "conflict", "none"]


@dataclass(frozen=True)
class Sentence:
    """The meaning of one sentence; `supported` is its verdict, None if it has none."""

    kind: Kind
    words: tuple[str, ...] = ()
    supported: bool | None = None
    is_yes_or_no: bool = False
    is_question: bool = False

    @property
    def is_verdict(self) -> bool:
        return self.supported is not None

    def has(self, words: frozenset[str]) -> bool:
        return not words.isdisjoint(self.words)

    @property
    def turns(self) -> bool:
        """Whether it begins by taking an earlier sentence back."""
        return not known.CONTRASTS.isdisjoint(self.words[:2])

    @property
    def concludes(self) -> bool:
        """Whether it is a verdict by itself, or a conclusion from earlier sentences."""
        drawn = self.kind == "statement" and not known.CONNECTIVES.isdisjoint(self.words[:2])
        return self.is_verdict and (self.kind == "bare" or drawn)

    @property
    def denies(self) -> bool:
        """Whether it denies the sentence before it ("It is not.", "The claim says ... wrong")."""
        if self.is_question or self.is_verdict:
            return False
        ellipsis = self.has(known.NOT) and set(self.words) <= known.FILLERS | known.NOT
        return ellipsis or (self.has(known.NOUNS) and self.has(known.FALSE))


def normalize(text: str, statement: str = "") -> str:
    """Remove case and markup from a reply; a repeated `statement` becomes "statement"."""
    plain = _COURTESY.sub("", known.fold(text).translate(_QUOTES))
    words = known.fold(statement).rstrip(".!").split()
    if len(words) > 1:
        echo = r"\s+".join(map(re.escape, words))
        plain = re.sub(rf"(?<!\w){echo}(?!\w){_ENDS}", " statement. ", plain)
        plain = re.sub(rf"(?<!\w){echo}(?!\w)[.!]?", " statement ", plain)
    plain = _MARKUP.sub(" ", _LIST_MARK.sub("", _TAG.sub("\n", plain)))
    plain = _NOT.sub(" not", _CANNOT_BE.sub("is not ", plain))
    return _NUMBERED.sub(r"\1", plain)


def sentences(text: str) -> list[Sentence]:
    """Read the sentences of a normalized reply; labels and empty ones are left out."""
    return [read for part in _split(text) if (read := _sentence(part)).words]


def _split(text: str) -> Iterator[str]:
    for line in text.splitlines():
        start = 0
        for end in _SENTENCE_END.finditer(line):
            yield line[start : end.end()]
            start = end.end()
        yield line[start:]


def _sentence(text: str) -> Sentence:
    is_question = text.rstrip(" \"')]").endswith(("?", "\u061f", "\uff1f"))
    plain = _COURTESY.sub("", _CHOICE.sub(" ", text).strip())
    if _UNSPACED_LETTER.search(plain):
        return Sentence("none", ("?",), is_question=True) if is_question else _unspaced(plain)
    plain = _DISBELIEF.sub(r"\1 is not ", _NOT_BUT.sub("", plain))
    plain = _SAYING.sub(" ", _RIGHT_ANSWER.sub("", plain))
    plain = _SYMBOL.sub(r", \g<0>, ", _AND.sub(", ", _LEAD.sub(r"\1, ", plain)))
    words = tuple(re.findall(r"[^\s,;:.!?()\[\]{}\"'/=\u0964\u06d4]+", plain))
    if is_question:
        return Sentence("none", words, is_question=True)
    if set(words) <= known.FILLERS:  # a label, or nothing
        return Sentence("none")
    return _of_clauses(list(_clauses(plain.rstrip(" .!\u2026\u0964\u06d4"))), words)


def _unspaced(text: str) -> Sentence:
    """Read a sentence in a language without spaces."""
    plain = known.UNSPACED_LABEL.sub("", text).strip(" .!?\u3002\uff01\uff1f\"'")
    parts = tuple(re.sub(r"\s", "", part) for part in _UNSPACED_COMMA.split(plain))
    matches = [_UNSPACED.fullmatch(part) for part in parts]
    verdicts = {match["true"] is not None for match in matches if match}
    if len(verdicts) > 1:
        return Sentence("conflict", parts)
    turns = known.UNSPACED_TURN.search(plain)
    if turns and (verdicts == {True} or known.UNSPACED_DENIAL.search(plain)):
        return Sentence("open", parts)
    if any(matches[:2]) and not plain.startswith(("是不", "是否")):
        return Sentence("bare", parts, verdicts.pop())
    return Sentence("none", parts)


# Clauses ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Clause:
    """A clause; `tail` is a reason or condition that follows its verdict."""

    separator: str  # before it
    words: tuple[str, ...]
    supported: bool | None = None
    is_yes_or_no: bool = False
    tail: tuple[str, ...] = ()

    def has(self, words: frozenset[str]) -> bool:
        return not words.isdisjoint(self.words)

    @property
    def begins_as_conclusion(self) -> bool:
        return not known.CONNECTIVES.isdisjoint(self.words[:2])


def _of_clauses(clauses: Sequence[_Clause], words: tuple[str, ...]) -> Sentence:
    """Read the first clause that is a verdict, unless another one takes it back."""
    unclear = not known.HEDGES.isdisjoint(words) and not _VERDICT.isdisjoint(words)
    kind: Kind = "open" if unclear else "none"
    place = next((n for n, clause in enumerate(clauses) if clause.supported is not None), None)
    if place is None:
        return Sentence(kind, words)
    main, before, after = clauses[place], clauses[:place], clauses[place + 1 :]
    prefix = frozenset(word for clause in before for word in clause.words)
    blocked = _blocked_by(main, prefix, kind)
    if blocked is None and _takes_back(main, after):
        blocked = "open"
    elif blocked is None and any(_contradicts(main, clause) for clause in after):
        blocked = "conflict"
    if blocked is not None:
        return Sentence(blocked, words)
    kind = "bare"
    is_labelled = prefix <= known.FILLERS and not prefix.isdisjoint(known.NOUNS)
    if not is_labelled:
        if main.has(known.NOUNS) or main.has(known.CONNECTIVES):
            kind = "statement"
        elif main.has(known.PRONOUNS):
            kind = "pronoun"
    return Sentence(kind, words, main.supported, main.is_yes_or_no)


def _blocked_by(main: _Clause, prefix: frozenset[str], unclear: Kind) -> Kind | None:
    """Return the kind of a sentence whose prefix keeps it from being a verdict."""
    if prefix <= known.FILLERS:
        return None
    if not prefix.isdisjoint(known.CONDITIONS):
        return "open"
    points = main.separator in _POINTING
    is_about = main.has(known.NOUNS) or main.has(known.PRONOUNS)
    if not (is_about or main.begins_as_conclusion or points):
        return unclear
    hedged = not known.HEDGES.isdisjoint(prefix)
    if not (known.TRUE | _UNTRUE).isdisjoint(prefix):  # "It might seem true, but it is false."
        turned = main.separator in ("but", "however") or not (
            {"in", "actually"}.isdisjoint(main.words[:2])
        )
        return None if turned and hedged and not points else "conflict"
    denied = main.supported and not known.NOT.isdisjoint(prefix)
    return unclear if points and (hedged or denied) else None


def _takes_back(main: _Clause, after: Sequence[_Clause]) -> bool:
    """Return whether the words after a verdict limit it to a part or a condition."""
    if main.tail:
        first, rest = main.tail[0], main.tail[1:]
        if first in known.CONDITIONS | known.CONTRASTS | _PROVISO:
            return True
        if first == "as" and rest[:1] in (("of",), ("if",), ("long",), ("far",)):
            return True
        if first not in _CAUSES and not known.IN_PART.isdisjoint(rest):
            return True
    clauses = [clause for clause in after if clause.words]
    if clauses:
        first, rest = clauses[0].words[0], clauses[0].words[1:]
        if first in known.CONDITIONS | _PROVISO:
            return True
        if first in ("in", "with", "at") and not known.IN_PART.isdisjoint(rest):
            return True
    return any(
        main.supported or (clause.has(known.HEDGES) and clause.has(known.TRUE))
        for clause in clauses
        if clause.separator in _TURNING or not known.CONTRASTS.isdisjoint(clause.words[:2])
    )


def _contradicts(main: _Clause, clause: _Clause) -> bool:
    """Return whether a later clause says the opposite ("True, it is not.")."""
    if clause.supported is not None:
        return clause.supported != main.supported
    ellipsis = _ELLIPSIS.fullmatch(" ".join(clause.words))
    if ellipsis:
        return (ellipsis[1] is None) != main.supported
    only_denies = clause.has(known.NOT) and set(clause.words) <= known.FILLERS | known.NOT
    return bool(main.supported) and only_denies


def _clauses(text: str) -> Iterator[_Clause]:
    parts = _SEPARATOR.split(text)
    for place in range(0, len(parts), 2):
        separator = parts[place - 1].strip() if place else ""
        stripped = (word.strip(".!?") for word in re.split(r"[\s']+", parts[place]))
        yield _clause(separator, tuple(word for word in stripped if word))


def _clause(separator: str, words: tuple[str, ...]) -> _Clause:
    if len(words) > MAX_WORDS or words == ("right",):  # "Right, let me see."
        return _Clause(separator, words)
    if (yes := _yes_or_no(words)) is not None:
        return _Clause(separator, words, yes, is_yes_or_no=True)
    if words in (("t",), ("f",)):
        return _Clause(separator, words, words == ("t",))
    head, tail = _head(words)
    polarities = _polarities(head)
    supported = polarities.pop() if len(polarities) == 1 else None
    return _Clause(separator, words, supported, tail=tail)


def _yes_or_no(words: tuple[str, ...]) -> bool | None:
    """Read a clause that is just yes or no ("Absolutely not", "the answer is no")."""
    core = [word for word in words if word not in known.ADVERBS]
    if core == ["not"] and len(words) > 1:
        return False
    if len(core) > 1 and not known.NOUNS.isdisjoint(words):
        core = [word for word in words if word not in known.FILLERS]
        core = core if words[-1:] == tuple(core) else []
    if len(core) != 1 or core[0] not in known.YES | known.NO:
        return None
    return core[0] in known.YES


def _head(words: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split a clause before a reason or condition that follows its verdict."""
    first = next((place for place, word in enumerate(words) if word in _VERDICT), len(words))
    for place in range(first + 1, len(words)):
        word, rest = words[place], words[place:]
        proviso = word in _PROVISO and place == first + 1
        reason = word in known.REASONS and not set(rest) <= known.FILLERS
        if proviso or reason or word in known.CONDITIONS | known.CONTRASTS:
            return words[:place], rest
    return words, ()


def _polarities(head: tuple[str, ...]) -> set[bool | None]:
    """Return what the verdicts of a clause say; None if it cannot be read."""
    if not known.PASSAGES.isdisjoint(head):  # "passage 2"
        head = tuple(word for word in head if not word.isdigit())
    denials = {place for place, word in enumerate(head) if word in known.NOT}
    verdicts = [place for place, word in enumerate(head) if word in _VERDICT]
    distinct = {head[place] for place in verdicts}
    if len(verdicts) > 1 and (denials or not distinct <= known.TRUE) and len(distinct) < len(head):
        return {None}  # "it is not true that the statement is false"
    if any(word in known.PASSAGES and after in _COPULAS for word, after in pairwise(head)):
        return {None}  # it is the passages that are said to be true
    allowed = known.FILLERS | _VERDICT | known.NOT | (known.LINKS if denials else frozenset())
    if not set(head) <= allowed:
        return {None}
    polarities: set[bool | None] = set()
    used = set()
    for place in verdicts:
        denial = _denial(head, place, denials)
        used.add(denial)
        polarities.add(_polarity(head[place], None if denial is None else head[denial]))
    return polarities if denials <= used else {None}


def _denial(head: tuple[str, ...], verdict: int, denials: set[int]) -> int | None:
    """Return the place of the word that denies the verdict, or None."""
    before = verdict - 1
    while before >= 0 and head[before] in known.LINKS and before not in denials:
        before -= 1
    if before in denials:
        return before
    after = verdict + 1
    return after if after in denials and head[after] in known.NOT_AFTER else None


def _polarity(verdict: str, denial: str | None) -> bool | None:
    if denial is None:
        return verdict not in _UNTRUE
    if verdict in known.TRUE:
        return False
    return True if verdict in known.FALSE and denial == "not" else None
