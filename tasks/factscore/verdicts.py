"""Read which verdict a judge's reply commits to: True, False, or neither.

The reply is read sentence by sentence. A sentence is a verdict only if every word of its main
clause is known (`verdict_words`): "The statement is not supported by the passages." is one, "I
would have to look that up." is none. A reply commits to a verdict if it begins with one or ends in
one and nothing in it says the opposite. Whatever else it says is not guessed at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tasks.factscore import verdict_words as known
from tasks.factscore.parts import Finding

MAX_REPLY = 20_000  # characters read of a reply, after its reasoning
MAX_WORDS = 60  # of a clause that may be a verdict
MAX_DEPTH = 3  # of JSON objects
NO_VERDICT = "commits to no verdict"
MAX_QUOTED = 120  # characters of a reply in the reason why it is no verdict

_THOUGHT = re.compile(r"<(/?)(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_CHOICE = re.compile(  # the question said back
    r"\b(?:true\s*(?:/|\||or|and/or)\s*false|false\s*(?:/|\||or)\s*true|t\s*/\s*f)\b"
    r"(?:\s*[?:])?"
)
_MARKUP = re.compile(r"\\(?:boxed|textbf|text)\b|<[^<>\n]{1,40}>|[*`#>_$\\]|\[\d{1,3}\]")
_LIST_MARK = re.compile(r"^[ \t]*(?:[-\u2022]|\d{1,2}[.)])\s+", re.MULTILINE)
_NUMBERED = re.compile(r"\b(nos?)\.(?=\s*\d)")
_COURTESY = re.compile(
    r"^\W*(?:(?:sure|okay|ok|certainly|of course|alright|all right|here you go)[,!.:]+\s*"
    r"|(?:yes|right|correct)[,!.:]+\s*(?=(?:let|i can|i will|i'll|i'd|i am|i'm|happy|here|sure)\b))"
)
_CANNOT_BE = re.compile(r"\b(?:can ?not|can't|could not) be (?=(?:true|correct|right|false)\b)")
_RIGHT_ANSWER = re.compile(
    r"\b(?:correct|right|true) (?=(?:answer|response|option|verdict|label|choice)s?\b)"
)
_SAYING = re.compile(
    r"\bi(?: would|'d|'ll| will)? (?:say|answer|go with)\b|\b(?:there is )?(?:no|without(?: a)?) doubt\b(?! that)"
    r"|\bpassages? (?:\d+ )?(?:clearly )?(?:confirms?|shows?|indicates?|says?|states?) that "
    r"(?=(?:the|this) (?:statement|claim) is\b)"
)
_LEAD = re.compile(
    r"^(\W*(?:true|false|yes|no)) (?=(?:the|she|he|they|there|it|this|that|i|we)\b)"
)
_DISBELIEF = re.compile(
    r"\b(?:do|does) not (?:think|believe) (?:that )?(it|this|that|the (?:statement|claim|assertion))"
    r"(?: is|'s) (?=(?:true|correct|right|accurate|supported)\b)"
)
_ASKING = frozenset("is was are were did does do has had".split())
_PROVISO = frozenset(("provided", "providing"))
_ANSWER_LABEL = re.compile(r"^\W*(?:正解|正しい答え|正确答案|正確答案|정답|답)\s*(?:は|은|是|[:\uff1a])\s*")
_ELLIPSIS = re.compile(r"(?:it|that|this|they|he|she) (?:is|was|does|do|did|are)( not)?")
_SENTENCE_END = re.compile(
    r"(?<![.!?\u2026])[.!?\u2026]++[\"')\]]*+(?=\s|$)|[\u3002\uff01\uff1f\u0964\u061f]++"
)
_SEPARATOR = re.compile(
    r"([,;:()\[\]{}\"\u2014\u2013=\u2192|/\u3001\uff0c]|\s-+\s|\s-+$|^-+\s|->|\b(?:but|however|although|though)\b)"
)
_UNSPACED = re.compile(rf"{known.UNSPACED_BEFORE}(?:(?P<yes>{known.UNSPACED_TRUE})|(?P<no>{known.UNSPACED_FALSE})){known.UNSPACED_AFTER}")
_UNSPACED_TURN = re.compile("但|不过|不過|然而|可是|ただし|しかし|けれど|하지만|그러나|다만")
_UNSPACED_DENIAL = re.compile("不|错|錯|误|誤|假|ない|ません|違|間違|아니|틀|않")
_UNSPACED_LETTER = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
_NEXT_ITEM = re.compile(
    r"^[ \t#*>]*(?:statement|passage \d+|question|q)[ \t*]*:", re.IGNORECASE | re.MULTILINE
)

_KEYS = frozenset(
    "answer finalanswer verdict label result judgment judgement decision conclusion response "
    "prediction classification istrue true supported issupported correct iscorrect factual "
    "isfactual truth veracity value entailed".split()
)
_KEYS_OF_FALSE = frozenset(
    "false isfalse contradicted iscontradicted refuted unsupported notsupported incorrect".split()
)

Kind = Literal["bare", "statement", "pronoun", "open", "conflict", "none"]


@dataclass(frozen=True)
class _Sentence:
    """What one sentence says; `supported` is its verdict where its kind is that of one."""

    kind: Kind
    supported: bool | None = None
    is_yes_or_no: bool = False
    is_question: bool = False
    words: tuple[str, ...] = ()

    @property
    def is_verdict(self) -> bool:
        return self.supported is not None

    def has(self, words: frozenset[str]) -> bool:
        return not words.isdisjoint(self.words)

    @property
    def turns(self) -> bool:
        """Whether it begins by taking back what was said before."""
        return bool(self.words) and not known.CONTRASTS.isdisjoint(self.words[:2])


def read_verdict(text: str, statement: str = "") -> Finding:
    """Read the verdict that a reply commits to; `statement` is what it was asked about.

    Reasoning in <think> tags is not read, and neither is the statement said back. A reply that
    says both True and False, hedges, sets a condition or cannot be read has no verdict, with a
    reason that quotes it.
    """
    told, is_finished = _without_thought(text)
    if not is_finished:
        return _none("ends before its reasoning does", text)
    if len(told) > MAX_REPLY:
        return _none(f"is longer than {MAX_REPLY:,} characters", told)
    if not told.strip():
        return Finding(None, "an empty reply")
    for part in _own_part(told):
        value = _of_json(part)
        found = value if value is not None else _of_prose(_normal(part, statement))
        if found in (True, False):
            return Finding(bool(found))
    return _none(str(found), told)


def begins_with_verdict(text: str) -> bool:
    """Whether the first sentence of a reply, after its reasoning, is a verdict."""
    told, is_finished = _without_thought(text)
    sentences = (_sentence(part) for part in _split(_normal(told[:MAX_REPLY], "")))
    first = next((sentence for sentence in sentences if sentence.words), None)
    return is_finished and first is not None and first.is_verdict


def _none(why: str, text: str) -> Finding:
    return Finding(None, f"the reply {why}: {' '.join(text.split())[:MAX_QUOTED]!r}")


def _without_thought(text: str) -> tuple[str, bool]:
    """The text without its reasoning, and whether the reasoning ended."""
    told, start, depth = [], 0, 0
    for tag in _THOUGHT.finditer(text):
        if not tag[1]:
            if depth == 0:
                told.append(text[start : tag.start()])
            depth += 1
        elif depth == 0:  # some templates open the reasoning in the prompt
            told.clear()
        else:
            depth -= 1
        start = tag.end()
    return "\n".join([*told, text[start:]]), depth == 0


def _own_part(told: str) -> Iterator[str]:
    """A model that goes on with an item of its own is read up to there, if it has answered."""
    following = _NEXT_ITEM.search(told, len(told) - len(told.lstrip()) + 1)
    if following and told[: following.start()].strip():
        yield told[: following.start()]
    yield told


# JSON ---------------------------------------------------------------------------------------------


def _of_json(text: str) -> bool | str | None:
    """The verdict of the JSON object in a reply; None if it holds none, a text if it is unclear."""
    start, end = text.find("{"), text.rfind("}")
    if not 0 <= start < end:
        return None
    try:
        value = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return None
    around = _of_prose(_normal(f"{text[:start]}\n{text[end + 1 :]}", ""))
    found = set(_of_object(value))
    if len(found) > 1:
        found.discard(NO_VERDICT)
    if around in (True, False):
        found.add(around)
    if len(found) == 1:
        return found.pop()
    return "says both True and False" if found else NO_VERDICT


def _of_object(value: Any, depth: int = 0) -> Iterator[bool | str]:
    if not isinstance(value, dict) or depth > MAX_DEPTH:
        return
    for key, said in value.items():
        name = re.sub(r"[\W_]", "", str(key)).casefold()
        if name not in _KEYS | _KEYS_OF_FALSE:
            continue
        if isinstance(said, dict):
            yield from _of_object(said, depth + 1)
            continue
        if isinstance(said, str):
            said = _of_prose(_normal(said, ""))
        if isinstance(said, bool):
            yield said if name in _KEYS else not said
        else:
            yield said if isinstance(said, str) else NO_VERDICT


# Prose --------------------------------------------------------------------------------------------


def _normal(text: str, statement: str) -> str:
    """The reply in one case and without markup; the statement said back is "statement"."""
    said = known.fold(text).replace("\u2019", "'").replace("\u2018", "'")
    said = _COURTESY.sub("", said)
    said = said.translate({0x201C: '"', 0x201D: '"', 0xAB: '"', 0xBB: '"', 0x201E: '"'})
    words = known.fold(statement).rstrip(".!").split()
    if len(words) > 1:
        echo = r"\s+".join(map(re.escape, words))
        said = re.sub(rf"(?<!\w){echo}(?!\w)[.!]?", " statement ", said)
    said = re.sub(r"</?\w{1,20}>", "\n", said)
    said = _MARKUP.sub(" ", _LIST_MARK.sub("", said))
    said = re.sub(r"\bain't\b|(?<=\w)n't\b", " not", _CANNOT_BE.sub("is not ", said))
    return _NUMBERED.sub(r"\1", said)


def _of_prose(text: str) -> bool | str:
    """The verdict that sentences commit to together, or why they commit to none."""
    sentences = [_sentence(part) for part in _split(text)]
    told = [sentence for sentence in sentences if sentence.words]
    if told and told[0].is_verdict and told[0].kind != "conflict":
        return _led(told[0], told[1:])
    return _concluded(told)


def _led(lead: _Sentence, rest: list[_Sentence]) -> bool | str:
    """A reply that begins with its verdict: unless the rest takes it back."""
    for sentence in rest:
        opposite = sentence.supported is not None and sentence.supported != lead.supported
        if sentence.kind == "conflict" or (opposite and not sentence.is_question):
            return "says both True and False"
        if sentence.kind == "open" and (lead.supported or sentence.has(known.IN_DEGREES)):
            return "takes its verdict back in part"
        if lead.supported and (_is_denial(sentence) or _is_ellipsis(sentence)):
            return "says both True and False"
        if sentence.turns and not sentence.is_verdict:
            against = known.NOT | known.FALSE | known.FALSE_UNLESS_DENIED
            if sentence.has(against if lead.supported else known.TRUE) and (
                lead.supported or not sentence.has(known.NOT)
            ):
                return "takes its verdict back in part"
    return bool(lead.supported)


def _concluded(told: list[_Sentence]) -> bool | str:
    """A reply that reasons first: what it ends in, else what all its verdicts agree on."""
    questions = sum(sentence.is_question for sentence in told)
    verdicts = []
    for place, sentence in enumerate(told):
        is_last = place == len(told) - 1
        if not sentence.is_verdict:
            continue
        asked = place > 0 and told[place - 1].is_question
        if sentence.is_yes_or_no and asked and not _is_answer(told[place - 1], questions):
            return "answers a question of its own"
        earlier = told[:place]
        doubtful = any(s.turns or s.has(known.NOT) for s in earlier if not s.is_question)
        if sentence.kind == "pronoun" and (
            not is_last or (sentence.supported and doubtful)
        ):
            continue
        verdicts.append((is_last, sentence))
    plain = {s.supported for _, s in verdicts if s.kind == "bare"}
    if any(s.kind == "conflict" for s in told) or len(plain) > 1:
        return "says both True and False"
    if told and told[-1].kind == "bare" and verdicts:
        return bool(told[-1].supported)
    if any(s.kind == "open" for s in told):
        return "does not commit to a verdict"
    if not verdicts:
        return NO_VERDICT
    if len({s.supported for _, s in verdicts}) > 1:
        return "says both True and False"
    first = told.index(verdicts[0][1])
    return _led(verdicts[0][1], told[first + 1 :])


def _is_denial(sentence: _Sentence) -> bool:
    """Whether it calls a statement false, in words that are not all known."""
    told = not sentence.is_question and not sentence.is_verdict
    return told and sentence.has(known.NOUNS) and sentence.has(known.FALSE)


def _is_ellipsis(sentence: _Sentence) -> bool:
    """Whether it denies what was said before: "It is not.\""""
    told = not sentence.is_question and not sentence.is_verdict
    return told and sentence.has(known.NOT) and set(sentence.words) <= known.FILLERS | known.NOT


def _is_answer(question: _Sentence, questions: int) -> bool:
    """Whether yes or no to `question` is a verdict: it asks whether the statement is true."""
    if question.has(known.FALSE | known.FALSE_UNLESS_DENIED | known.NOT):
        return False
    first, second = (*question.words, "", "")[:2]
    about_somebody = first in _ASKING and second not in known.FILLERS
    return question.has(known.TRUE) or (questions == 1 and about_somebody)


def _split(text: str) -> Iterator[str]:
    """Sentences; a period within a word or a number ends none."""
    for line in text.splitlines():
        start = 0
        for match in _SENTENCE_END.finditer(line):
            yield line[start : match.end()]
            start = match.end()
        yield line[start:]


def _sentence(text: str) -> _Sentence:
    """Read one sentence."""
    is_question = text.rstrip(" \"')]").endswith(("?", "\u061f", "\uff1f"))
    said = _CHOICE.sub(" ", text) if _CHOICE.search(text) else text
    said = _COURTESY.sub("", said.strip())
    if found := _unspaced(said):
        return found if not is_question else _Sentence("none", is_question=True, words=("?",))
    said = _DISBELIEF.sub(r"\1 is not ", said)
    said = _SAYING.sub(" ", _RIGHT_ANSWER.sub("", said))
    said = _LEAD.sub(r"\1, ", said)
    words = tuple(re.findall(r"[^\s,;:.!?()\[\]{}\"'/=]+", said))
    if is_question:
        return _Sentence("none", is_question=True, words=words)
    if set(words) <= known.FILLERS:  # a label, or nothing
        return _Sentence("none")
    return _of_clauses(said.rstrip(" .!\u2026"), words)


def _unspaced(text: str) -> _Sentence | None:
    """Read a sentence in a language without spaces; None if it is in another."""
    if not _UNSPACED_LETTER.search(text):
        return None
    told = _ANSWER_LABEL.sub("", text).strip(" .!?\u3002\uff01\uff1f\"'")
    parts = [re.sub(r"\s", "", part) for part in re.split(r"[,:\u3001\uff0c\uff1a]", told)]
    matches = [_UNSPACED.fullmatch(part) for part in parts]
    turned = any(_UNSPACED_TURN.search(part) for part in parts)
    read = {match["yes"] is not None for match in matches if match}
    if len(read) > 1:
        return _Sentence("conflict", words=tuple(parts))
    if turned and (read == {True} or _UNSPACED_DENIAL.search(told)):
        return _Sentence("open", words=tuple(parts))
    if read and any(matches[:2]) and not parts[0].startswith(("是不", "是否")):
        return _Sentence("bare", read.pop(), words=tuple(parts))
    return _Sentence("none", words=tuple(parts))


@dataclass(frozen=True)
class _Clause:
    separator: str  # before it
    words: tuple[str, ...]
    supported: bool | None = None
    is_yes_or_no: bool = False
    tail: tuple[str, ...] = ()

    @property
    def is_conflict(self) -> bool:
        both = known.FALSE | known.FALSE_UNLESS_DENIED
        return self.supported is None and not both.isdisjoint(self.words) and not (
            known.TRUE.isdisjoint(self.words)
        )


def _of_clauses(text: str, words: tuple[str, ...]) -> _Sentence:
    """The verdict of a sentence's main clause, unless another clause takes it back."""
    clauses = list(_clauses(text))
    place = next((n for n, clause in enumerate(clauses) if clause.supported is not None), None)
    hedged = not known.HEDGES.isdisjoint(words)
    about = known.TRUE | known.FALSE | known.FALSE_UNLESS_DENIED | known.TRUE_UNLESS_DENIED
    unclear = _Sentence(
        "open" if hedged and not about.isdisjoint(words) else "none", words=words
    )
    if place is None:
        return unclear
    main, before, after = clauses[place], clauses[:place], clauses[place + 1 :]
    prefix = {word for clause in before for word in clause.words}
    has_noun = not (known.NOUNS | {"statement"}).isdisjoint(main.words)
    has_pronoun = not known.PRONOUNS.isdisjoint(main.words)
    if not prefix <= known.FILLERS:
        turned = main.separator in ("but", "however") or not (
            {"in", "actually"}.isdisjoint(main.words[:2])
        )
        connected = not known.CONNECTIVES.isdisjoint(main.words[:2])
        pointed = main.separator.strip() in (":", "=", "->", "\u2192", "-", "\u2014", "\u2013")
        conditional = not known.CONDITIONS.isdisjoint(prefix)
        if conditional or not (has_noun or has_pronoun or connected or pointed):
            return unclear if not conditional else _Sentence("open", words=words)
        if not about.isdisjoint(prefix) and not (turned and not known.HEDGES.isdisjoint(prefix)):
            return _Sentence("conflict", words=words)
        unsure = known.HEDGES | known.NOT if main.supported else known.HEDGES
        if pointed and not unsure.isdisjoint(prefix):
            return unclear
    if _takes_back(main, after):
        return _Sentence("open", words=words)
    if any(clause.supported not in (None, main.supported) for clause in after):
        return _Sentence("conflict", words=words)
    for clause in after:
        ellipsis = _ELLIPSIS.fullmatch(" ".join(clause.words))
        denies = clause.words and set(clause.words) <= known.FILLERS | known.NOT and not (
            known.NOT.isdisjoint(clause.words)
        )
        if (main.supported and denies) or (ellipsis and (ellipsis[1] is None) != main.supported):
            return _Sentence("conflict", words=words)
    connected = not known.CONNECTIVES.isdisjoint(main.words)
    kind: Kind = "statement" if has_noun or connected else "pronoun" if has_pronoun else "bare"
    labelled = before and prefix <= known.FILLERS and not prefix.isdisjoint(known.NOUNS)
    if labelled or (main.separator.strip() in (":", "=") and kind == "bare"):
        kind = "bare"
    return _Sentence(kind, main.supported, main.is_yes_or_no, words=words)


def _takes_back(main: _Clause, after: list[_Clause]) -> bool:
    """Whether what follows a verdict makes it one of a part, or of a condition."""
    if main.tail:
        first, rest = main.tail[0], main.tail[1:]
        if first in known.CONDITIONS | known.CONTRASTS | _PROVISO:
            return True
        if first not in ("because", "since", "per", "given") and not (
            known.IN_PART.isdisjoint(rest)
        ):
            return True
    for number, clause in enumerate(after):
        if not clause.words:
            continue
        opening = set(clause.words[:2])
        if number == 0 and not (known.CONDITIONS | _PROVISO).isdisjoint(clause.words[:1]):
            return True
        if number == 0 and clause.words[0] in ("in", "with", "at") and not (
            known.IN_PART.isdisjoint(clause.words[1:])
        ):
            return True
        turned = clause.separator in ("but", "however", "although", "though")
        if turned or not known.CONTRASTS.isdisjoint(opening):
            if main.supported:
                return True
            if not known.HEDGES.isdisjoint(clause.words) and not known.TRUE.isdisjoint(clause.words):
                return True
    return False


def _clauses(text: str) -> Iterator[_Clause]:
    parts = _SEPARATOR.split(text)
    for place in range(0, len(parts), 2):
        separator = parts[place - 1].strip() if place else ""
        words = tuple(word for word in re.split(r"[\s']+", parts[place].strip(" .")) if word)
        words = tuple(word.strip(".!?'") for word in words if word.strip(".!?'"))
        yield _clause(separator, words)


def _clause(separator: str, words: tuple[str, ...]) -> _Clause:
    """Read one clause; its verdict is None unless all its words are known."""
    core = [word for word in words if word not in known.ADVERBS]
    yes = len(core) == 1 and core[0] in known.YES
    no = len(core) == 1 and (core[0] in known.NO or (core[0] == "not" and len(words) > 1))
    if len(words) > MAX_WORDS or words == ("right",):  # "Right, let me see."
        return _Clause(separator, words)
    if yes or no:
        return _Clause(separator, words, yes, True)
    answer = [word for word in words if word not in known.FILLERS]
    if len(answer) == 1 and words[-1] == answer[0] and not known.NOUNS.isdisjoint(words):
        if answer[0] in known.YES | known.NO:  # "the answer is no"
            return _Clause(separator, words, answer[0] in known.YES, True)
    if len(core) == 1 and len(words) == 1 and core[0] in ("t", "f"):
        return _Clause(separator, words, core[0] == "t")
    verdict = known.TRUE | known.TRUE_UNLESS_DENIED | known.FALSE | known.FALSE_UNLESS_DENIED
    places = [place for place, word in enumerate(words) if word in verdict]
    if not places:
        return _Clause(separator, words)
    head, tail = _head(words, places)
    polarities = _polarities(head, verdict)
    if len(polarities) == 1 and None not in polarities:
        (supported,) = polarities
        return _Clause(separator, words, supported, tail=tail)
    return _Clause(separator, words)


def _head(words: tuple[str, ...], places: Iterable[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words up to what follows the verdict as a reason or a condition, and those."""
    first = min(places)
    for place in range(first + 1, len(words)):
        word = words[place]
        rest = words[place:]
        is_proviso = word in _PROVISO and place == first + 1
        if is_proviso or word in known.CONDITIONS | known.CONTRASTS:
            return words[:place], rest
        if word in known.REASONS and not set(rest) <= known.FILLERS:
            return words[:place], rest
    return words, ()


def _polarities(head: tuple[str, ...], verdict: frozenset[str]) -> set[bool | None]:
    """What the verdicts of a clause say, each denied or not; None is what cannot be read."""
    denials = {place for place, word in enumerate(head) if word in known.NOT}
    said = [word for word in head if word in verdict]
    if len(said) > 1 and (denials or not set(said) <= known.TRUE) and len(set(said)) < len(head):
        return {None}  # "it is not true that the statement is false"
    allowed = known.FILLERS | known.LINKS if denials else known.FILLERS
    found: set[bool | None] = set()
    used: set[int] = set()
    for place, word in enumerate(head):
        if word not in verdict:
            if word not in allowed and place not in denials:
                found.add(None)
            continue
        before = place - 1
        while before >= 0 and head[before] in known.LINKS and before not in denials:
            before -= 1
        denial = before if before in denials else None
        if denial is None and place + 1 in denials and head[place + 1] in known.NOT_AFTER:
            denial = place + 1
        if denial is None:
            found.add(word in known.TRUE or word in known.TRUE_UNLESS_DENIED)
            continue
        used.add(denial)
        if word in known.TRUE:
            found.add(False)
        elif word in known.FALSE and head[denial] == "not":
            found.add(True)
        else:
            found.add(None)
    if denials - used:
        found.add(None)
    return found
