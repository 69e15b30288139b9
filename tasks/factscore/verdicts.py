"""Read which verdict a judge's reply commits to: True, False, or neither.

A reply commits to a verdict if it begins with one or ends in one, and nothing in it says the
opposite, hedges it or makes it conditional. Whatever else it says is not guessed at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tasks.factscore import verdict_words as known
from tasks.factscore.pipeline import Finding
from tasks.factscore.verdict_sentences import Sentence, normalize, sentences

MAX_REPLY = 20_000  # characters read of a reply, after its reasoning
MAX_DEPTH = 3  # of JSON objects
MAX_QUOTED = 120  # characters of a reply, in the reason why it is not a verdict

# Why a reply is not a verdict.
NO_VERDICT = "commits to no verdict"
BOTH = "says both True and False"
OPEN = "does not commit to a verdict"
TAKEN_BACK = "takes its verdict back in part"
OWN_QUESTION = "answers a question of its own"

_THOUGHT = re.compile(r"<(/?)(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
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
_ASKING = frozenset("is was are were did does do has had".split())

_Verdict = bool | str  # a verdict, or why there is none


def read_verdict(text: str, statement: str = "") -> Finding:
    """Read the verdict that a reply commits to; `statement` is what it was asked about.

    Reasoning in <think> tags and a repetition of the statement are not read. A reply that says both
    True and False, hedges, sets a condition or cannot be read has no verdict; the reason quotes
    it.
    """
    answer, is_finished = _without_thought(_without_echo(text, statement))
    if not is_finished:
        return _unread("ends before its reasoning does", text)
    if len(answer) > MAX_REPLY:
        return _unread(f"is longer than {MAX_REPLY:,} characters", answer)
    if not answer.strip():
        return Finding(None, "an empty reply")
    verdict: _Verdict = NO_VERDICT
    for part in _own_part(answer):
        verdict = _of_reply(part, statement)
        if isinstance(verdict, bool):
            return Finding(verdict)
    return _unread(str(verdict), answer)


def begins_with_verdict(text: str) -> bool:
    """Return whether the first sentence of a reply, after its reasoning, is a verdict."""
    answer, is_finished = _without_thought(text)
    read = sentences(normalize(answer[:MAX_REPLY]))
    return is_finished and bool(read) and read[0].is_verdict


def _without_echo(text: str, statement: str) -> str:
    """Replace an exact repetition of the statement, tags included, by the word "statement".

    A statement of one plain word, such as "True", cannot be told from a verdict and stays.
    """
    words = statement.split()
    if not words or (len(words) == 1 and words[0].isalpha()):
        return text
    if len(words) > 1:
        words[-1] = words[-1].rstrip(".!")  # the end of its sentence is read by `normalize`
    echo = r"\s+".join(map(re.escape, words))
    return re.sub(rf"(?<!\w){echo}(?!\w)", " statement ", text)


def _unread(why: str, text: str) -> Finding:
    return Finding(None, f"the reply {why}: {' '.join(text.split())[:MAX_QUOTED]!r}")


def _without_thought(text: str) -> tuple[str, bool]:
    """Return the text without its reasoning, and whether the reasoning ended."""
    if text.lstrip().startswith("<|channel|>"):
        _, ended, answer = text.rpartition("<|channel|>final<|message|>")
        return answer, bool(ended)
    parts, start, depth = [], 0, 0
    for tag in _THOUGHT.finditer(text):
        is_end = bool(tag[1])
        if not is_end:
            if depth == 0:
                parts.append(text[start : tag.start()])
            depth += 1
        elif depth > 0:
            depth -= 1
        else:  # some templates open the reasoning in the prompt
            parts.clear()
        start = tag.end()
    return "\n".join([*parts, text[start:]]), depth == 0


def _own_part(answer: str) -> Iterator[str]:
    """Yield an answer up to a next item that the model made up, then all of it."""
    following = _NEXT_ITEM.search(answer, len(answer) - len(answer.lstrip()) + 1)
    if following and answer[: following.start()].strip():
        yield answer[: following.start()]
    yield answer


def _of_reply(text: str, statement: str) -> _Verdict:
    """Read the JSON object of a reply, or else its prose."""
    start, end = text.find("{"), text.rfind("}")
    if 0 <= start < end:
        try:
            value = json.loads(text[start : end + 1])
        except (ValueError, RecursionError):
            pass
        else:
            return _of_json(value, around=f"{text[:start]}\n{text[end + 1 :]}")
    return _of_prose(text, statement)


def _of_json(value: Any, around: str) -> _Verdict:
    """Read an object's verdict, which the text around it must not contradict."""
    verdicts = set(_of_object(value))
    if len(verdicts) > 1:
        verdicts.discard(NO_VERDICT)
    if isinstance(beside := _of_prose(around), bool):
        verdicts.add(beside)
    if len(verdicts) > 1:
        return BOTH
    return verdicts.pop() if verdicts else NO_VERDICT


def _of_object(value: Any, depth: int = 0) -> Iterator[_Verdict]:
    """Yield the verdicts under the keys of an object that name one."""
    if not isinstance(value, dict) or depth > MAX_DEPTH:
        return
    for key, entry in value.items():
        name = re.sub(r"[\W_]", "", str(key)).casefold()
        if name not in _KEYS | _KEYS_OF_FALSE:
            continue
        if isinstance(entry, dict):
            yield from _of_object(entry, depth + 1)
            continue
        verdict = _of_prose(entry) if isinstance(entry, str) else entry
        if isinstance(verdict, bool):
            yield verdict if name in _KEYS else not verdict
        else:
            yield verdict if isinstance(verdict, str) else NO_VERDICT


# Prose --------------------------------------------------------------------------------------------


def _of_prose(text: str, statement: str = "") -> _Verdict:
    """Read the verdict that all sentences commit to together."""
    read = sentences(normalize(text, statement))
    if read and read[0].is_verdict:
        return _led(read[0], read[1:])
    return _concluded(read)


def _led(lead: Sentence, rest: Sequence[Sentence]) -> _Verdict:
    """Read a reply that begins with its verdict, which the rest may take back."""
    for sentence in rest:
        opposite = sentence.is_verdict and sentence.supported != lead.supported
        denied = lead.supported and sentence.denies
        if sentence.kind == "conflict" or opposite or denied:
            return BOTH
        if sentence.kind == "open" and (lead.supported or sentence.has(known.IN_DEGREES)):
            return TAKEN_BACK
        if sentence.turns and not sentence.is_verdict and _turns_against(lead, sentence):
            return TAKEN_BACK
    return bool(lead.supported)


def _turns_against(lead: Sentence, sentence: Sentence) -> bool:
    if lead.supported:
        return sentence.has(known.NOT | known.FALSE | known.FALSE_UNLESS_DENIED)
    return sentence.has(known.TRUE) and not sentence.has(known.NOT)


def _concluded(read: Sequence[Sentence]) -> _Verdict:
    """Read a reply that reasons first: its last verdict, else the one that all of them agree on."""
    if any(_answers_itself(read, place) for place in range(1, len(read))):
        return OWN_QUESTION
    places = [place for place in range(len(read)) if _counts(read, place)]
    verdicts = {read[place].supported for place in places}
    plain = {read[place].supported for place in places if read[place].kind == "bare"}
    if any(sentence.kind == "conflict" for sentence in read) or len(plain) > 1:
        return BOTH
    if read and read[-1].concludes and (read[-1].kind == "bare" or len(verdicts) == 1):
        return bool(read[-1].supported)
    if any(sentence.kind == "open" for sentence in read):
        return OPEN
    if not places:
        return NO_VERDICT
    return BOTH if len(verdicts) > 1 else _led(read[places[0]], read[places[0] + 1 :])


def _counts(read: Sequence[Sentence], place: int) -> bool:
    """Whether a sentence is a verdict on the statement, and not on a part of the reasoning."""
    sentence = read[place]
    if sentence.kind != "pronoun":
        return sentence.is_verdict
    earlier = [other for other in read[:place] if not other.is_question]
    doubtful = any(other.turns or other.has(known.NOT) for other in earlier)
    return place == len(read) - 1 and not (sentence.supported and doubtful)


def _answers_itself(read: Sequence[Sentence], place: int) -> bool:
    """Whether yes or no answers a question other than whether the statement is true."""
    sentence, question = read[place], read[place - 1]
    if not (sentence.is_yes_or_no and question.is_question):
        return False
    if question.has(known.FALSE | known.FALSE_UNLESS_DENIED | known.NOT):
        return True
    first, second = (*question.words, "", "")[:2]
    about_somebody = first in _ASKING and second not in known.FILLERS
    questions = sum(other.is_question for other in read)
    return not (question.has(known.TRUE) or (questions == 1 and about_somebody))
