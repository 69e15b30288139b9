"""Find the final answer to which a response commits itself.

The last commitment binds, of whatever kind: `#### 18`, "the answer is 18" (would be, should be, a
colon), a line `A: 18`, `\\boxed{18}`, `<answer>18</answer>`, or a last line in bold. Without a
commitment, the last number of the response counts. A commitment that cannot be read as one number
still binds, and gives no value: no part of it is taken, nor a number from elsewhere.
"""

# ruff: noqa: RUF001 (letters of other scripts are meant)

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from tasks.gsm8k.arithmetic import is_formula, show
from tasks.gsm8k.quantity import MAX_SPAN, Quantity, leading, numbers

MAX_TEXT = 200_000  # characters read of a response, its last
LOOKBACK = 400  # characters read before the last digit, when nothing is marked
MAX_MARKERS = 20  # of a kind, from the last; a flood of markers is not read further
MAX_WORDS = 6  # of a sentence that is a number in words
MAX_SHOWN = 60
MAX_SHOWN_PLACES = 20  # decimals
MAX_SHOWN_FRACTION = 12  # characters


@dataclass(frozen=True)
class Answer:
    """A final answer as a response writes it.

    `readings` are the numbers it may stand for, the literal one first: 25 % is 25, then 0.25. Of
    "2 million", which is 2,000,000, `count` is 2, and `scale` the word. They are empty for a
    formula (`2\\sqrt{3}`), and where `unread` says that the text is not one number. `none` says
    that the response finds the question unanswerable.
    """

    text: str
    found_by: str
    readings: tuple[Fraction, ...] = ()
    none: bool = False
    unread: bool = False
    count: Fraction | None = None
    scale: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the number as a decimal or a short fraction, else the text, cut short."""
        if not self.readings:
            return self.text[:MAX_SHOWN] or "that none can be given"
        value = self.readings[0]
        shown = show(value, MAX_SHOWN_PLACES)
        if shown.startswith("about") and len(str(value)) <= MAX_SHOWN_FRACTION:
            return str(value)
        return shown if len(shown) <= MAX_SHOWN else f"about {float(value):.4g}"


_MARKERS = {
    "####": re.compile(r"(?<!#)#{4,}"),
    "answer is": re.compile(
        r"\b(?:answer|ans|final\sresult)\b\W{0,4}"
        r"(?:to\s(?:the|this|your|our)\s(?:question|problem)(?:\sof\s[^.?!:\n]{1,80}?)?\W{0,4}"
        r"|\((?:in|to|as)\s[^()\n]{1,40}\)\W{0,3}|(?:then|thus|therefore|hence)\W{1,3})?"
        r"(?:(?:is|was|equals|becomes)\b|comes\s(?:out\s)?to\b|[:=]"
        r"|(?:would|should|will|must|has\sto|ought\sto|could|might)"
        r"\s(?:(?:then|thus|therefore)\s)?be\b)"
        r"|\b(?:respuesta|réponse|resposta|risposta|antwort|antwoord|svaret|svar|odpowiedź|ответ|"
        r"jawaban(?:nya)?|cevap|đáp án|उत्तर)(?:\sfinale?|\sфинальный)?\W{0,4}"
        r"(?:(?:es|est|é|è|ist|is|är|er|to|adalah|là)(?![^\W\d_])|[:=])"
        r"|(?:答案|答え|정답|답)\s?(?:应该|應該)?(?:是|为|為|は|은|는|[:=])"
        r"|^[ \t]*(?:\#{1,6}[ \t]+|\*{2})\**(?:final[ \t])?answer\**[ \t]*$",
        re.IGNORECASE | re.MULTILINE,
    ),
    "A:": re.compile(r"^[ \t]*A[ \t]?:", re.MULTILINE),
    "boxed": re.compile(r"\\(?:boxed|fbox)\s?(?=\{)"),
    "<answer>": re.compile(r"<(?:final[ _-]?)?answer\s?>", re.IGNORECASE),
}
_HEADING = re.compile(r"\s?\**[0-9]{1,2}\s?[.):–—-]\**\s+\S")
_LIST_BEGINS = re.compile(r"\s*\n\s*\**1[.)]\**\s+\S")
_ALONE = re.compile(r"[^=A-Za-z]{1,80}?(?:[ \t][A-Za-z]+){0,4}[^=\w]*")
_CHECKS = re.compile(r"\b(?:check|verif|confirm|proof)", re.IGNORECASE)
_OTHER_ANSWER = re.compile(
    r"\b(?:first|initial|previous|earlier|original|old|other|wrong|incorrect)\s+\Z", re.IGNORECASE
)
_CONDITION = re.compile(
    r"\b(?:if|otherwise|unless|without|suppose|supposing|assuming|instead|else"
    r"|(?:had|were)\s(?:he|she|it|they|we|there|(?-i:[A-Z])\w+))\b",
    re.IGNORECASE,
)
_MAYBE = re.compile(r"\b(?:would|could|might)\b", re.IGNORECASE)
_BULLET = re.compile(r"[-*•]\s+")
_IS_ASKED = re.compile(r"[\s\w$%*'\"]{0,30}\?")
_NEGATED = re.compile(r"\b(?:not|never|no|isn|wasn|than|instead|if|unless|except)\b", re.IGNORECASE)
_BOUNDED = re.compile(
    r"[\s:*_]*(?:(?:more|less|greater|fewer|higher|lower) than|over|under|above|below|nearly|"
    r"almost)\b",
    re.IGNORECASE,
)
_WITH_LETTERS = re.compile(
    r"[A-Za-z)](?:[-+*/^]|\s[-+*/^]\s)\(?[0-9]|[0-9)](?:[+*/^]|\s[+*/^]\s)\(?[A-Za-z]|\\[a-z]"
)
_SENTENCE = re.compile(r"(?:[^.!?\n]|[.](?=[0-9]))*")
_IN_WORDS = re.compile(
    r"[\s:*_\"'({]*(?:about\s|exactly\s|an?\s|one\s(?=half|third|quarter|hundred|thousand|dozen))*"
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|"
    r"seven|eigh|nine)teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|half|third|"
    r"quarter|dozen|twice)\b(?!\sof\b)",
    re.IGNORECASE,
)
_NONE = re.compile(
    r"[\s:*_\"'({]*(?:none|unknown|undetermined|n/a|not enough|insufficient|"
    r"(?:it )?can(?:not|'t|’t)|impossible|undefined|indeterminate)\b",
    re.IGNORECASE,
)
_UNANSWERABLE = re.compile(
    r"(?:not|n't|n’t)\s(?:have\s|give\s|provide\s|contain\s)?(?:\w+\s)?"
    r"(?:enough|sufficient)\s(?:\w+\s)?(?:information|info|data|details?|context)|"
    r"insufficient\s(?:information|data)|missing\sinformation|"
    r"(?:can\s?not|can't|can’t|unable\sto|impossible\sto|not\spossible\sto|no\sway\sto)\s"
    r"(?:\w+\s){0,2}?(?:determine|calculate|compute|answer|know|find|solve|tell|say|figure|conclude)|"
    r"(?:don't|don’t|do\snot)\sknow|\bnone\W*\Z|"
    r"(?:not|n't|n’t)\s(?:given|specified|provided|stated|mentioned|known|say|tell|specify|state)",
    re.IGNORECASE,
)


def committed(response: str) -> Answer | None:
    """Find the last answer that `response` marks as its answer; None if it marks none."""
    response = _with_ascii_marks(response[-MAX_TEXT:])
    if bold := _bold_last_line(response):
        return bold
    for start, end, marker in _last_markers(response):
        if answer := _marked(marker, response, start, end):
            return answer
    return None


def last_number(response: str) -> Answer | None:
    """Find the last number of a response that marks no answer, or its refusal to give a number."""
    response = _with_ascii_marks(response[-MAX_TEXT:])
    end = max(response.rfind(digit) for digit in "0123456789") + 1
    end = max(end, *(response.rfind(char) + 1 for char in _FRACTIONS))
    none = bool(_UNANSWERABLE.search(response[-LOOKBACK:]))
    begin = max(0, end - LOOKBACK)
    while 0 < begin < end and not response[begin - 1].isspace():
        begin += 1  # not in the middle of a number
    last = None
    for last in numbers(response[begin : end + MAX_SPAN] if end else ""):  # noqa: B007
        pass
    if last is None:
        return Answer("", "last number", none=True) if none else None
    text, quantity = last
    unread = not quantity.values and not none
    text = text.rpartition("=")[2].strip("( )")
    count, scale = quantity.count, quantity.scale
    return Answer(text, "last number", quantity.values, none, unread, count, scale)


_FRACTIONS = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
_FULL_WIDTH = str.maketrans({code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)})


def _with_ascii_marks(text: str) -> str:
    return text.translate(_FULL_WIDTH) if not text.isascii() else text


def _last_markers(response: str) -> Iterator[tuple[int, int, str]]:
    """Yield where markers begin and end, from the last to the first."""
    places = []
    for name, pattern in _MARKERS.items():
        matches = ((match.start(), match.end(), name) for match in pattern.finditer(response))
        places += heapq.nlargest(MAX_MARKERS, matches)
    yield from sorted(places, reverse=True)


def _marked(marker: str, response: str, start: int, end: int) -> Answer | None:
    """Read the answer after the marker at `start`; None if it turns out not to be a marker."""
    text = _marked_text(marker, response, start, end)
    if text is None or _NONE.match(text):
        return None if text is None else Answer(text, marker, none=True)
    prepared, quantity = leading(text)
    if quantity is None and not is_formula(text):
        is_label = marker == "A:" or (marker == "answer is" and response[end - 1] in ":=")
        words = prepared if marker == "boxed" else text
        quantity = _in_words(marker, words, is_label, _continues(response, end))
    elif quantity is not None and _IS_ASKED.match(prepared, quantity.end):
        return None
    if quantity is not None and quantity.values:
        count, scale = quantity.count, quantity.scale
        return Answer(text, marker, quantity.values, count=count, scale=scale)
    if is_formula(text):
        return Answer(text, marker)
    return Answer(text, marker, unread=True) if quantity is not None else None


def _marked_text(marker: str, response: str, start: int, end: int) -> str | None:
    """Cut out the text of a marker; None for a heading, a list and the beginning of reasoning."""
    text = response[end : end + 2 * MAX_SPAN]
    if marker == "boxed":
        return _braced(text)
    if marker == "<answer>":
        return text.partition("</")[0].strip()
    if _LIST_BEGINS.match(text):
        return None
    is_next_line = "\n" in text[: len(text) - len(text.lstrip())]
    text = text.strip().split("\n", 1)[0]
    if is_next_line:
        text = _BULLET.sub("", text, count=1)
    if marker == "####":
        is_heading = _HEADING.match(text) and _continues(response, end)  # "#### 2. Add them up"
        return None if is_heading else text
    is_heading = is_next_line and marker == "answer is" and response[end - 1] not in ":="
    is_none = (
        _OTHER_ANSWER.search(response[max(0, start - 20) : start])  # "my first answer was 20"
        or (
            marker == "answer is"
            and _is_conditional(response[max(0, start - MAX_SPAN) : end], text)
        )
        or (is_heading and not _ALONE.fullmatch(text))  # the work begins there
        or _opens_reasoning(response, start, end, text)
    )
    return None if is_none else text


def _is_conditional(before: str, after: str) -> bool:
    """Check for what the answer would be in another case ("If she had ten, it would be 20")."""
    marker = before.rpartition("answer")[2] or before
    if _MAYBE.search(marker) is None:
        return False
    clause = re.split(r"[.!?\n](?![0-9])", before)[-1]
    rest = _SENTENCE.match(after)
    return bool(_CONDITION.search(clause) or (rest and _CONDITION.search(rest[0])))


def _continues(response: str, end: int) -> bool:
    _, newline, rest = response[end:].lstrip().partition("\n")
    return bool(newline and rest.strip())


def _opens_reasoning(response: str, start: int, end: int, line: str) -> bool:
    """Check for a response that begins with "Answer:" or "A:" and then works its answer out."""
    if response[end - 1 : end] != ":" or response[:start].strip(" \n*#"):
        return False
    rest = response[end:].strip().partition("\n")[2]
    return "=" in line and "=" in rest and _CHECKS.search(rest) is None


def _in_words(marker: str, text: str, is_label: bool, continues: bool) -> Quantity | None:
    """Read the only number of a sentence after a marker, or no value for a number in words.

    A label ("Answer:") may begin a worked answer: a number later in its sentence is not meant.
    """
    sentence = _SENTENCE.match(text)[0] if marker != "boxed" else text  # type: ignore[index]
    has_digits = any(char.isdigit() for char in sentence)
    if has_digits and not text.lstrip(" *_\"'([{$:,")[:1].isalpha():
        return Quantity((), 0)  # ">18"
    if marker == "####" and continues:
        return None  # Markdown's "#### Step 1"
    if _IN_WORDS.match(text) and not has_digits:
        is_short = len(sentence.split()) <= MAX_WORDS
        return Quantity((), 0) if marker != "A:" and is_short else None
    if has_digits and (_BOUNDED.match(text) or _WITH_LETTERS.search(sentence)):
        return Quantity((), 0)
    if is_label or _NEGATED.search(sentence):
        return None
    given = [quantity for _, quantity in numbers(sentence)]
    return given[0] if len(given) == 1 else None


def _braced(text: str) -> str:
    """Cut out what stands in the braces that open `text`, all of it if they are never closed."""
    depth = 0
    for at, char in enumerate(text):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            return text[1:at]
    return text[1:]


_BOLD_LINE = re.compile(
    r"[\s>#-]*(?:(?P<label>[^\W\d][\w' ]{0,40}):\s*)?"
    r"(?:\*\*|__)(?:(?P<inner>[^\W\d][\w' ]{0,40}):\s*)?"
    r"(?P<text>[^*\n]{1,80}?)(?:\*\*|__)\s?[.!]?\s*"
)
_NOT_A_RESULT = re.compile(r"\s*(?:note|check|step|part|tip|hint|verif|proof|p\.?s)", re.IGNORECASE)


def _bold_last_line(response: str) -> Answer | None:
    """Read the number of a last line that has only a number in bold, with a label and a unit."""
    line = response.rstrip()[-MAX_SPAN:].rpartition("\n")[2]
    match = _BOLD_LINE.fullmatch(line)
    if match is None or _HEADING.match(match["text"]):
        return None
    if any(_NOT_A_RESULT.match(match[label] or "") for label in ("label", "inner")):
        return None
    prepared, quantity = leading(match["text"])
    if quantity is None or not quantity.values or len(prepared[quantity.end :].split()) > 4:
        return None
    count, scale = quantity.count, quantity.scale
    return Answer(match["text"], "bold", quantity.values, count=count, scale=scale)
