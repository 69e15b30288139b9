"""Cut a response where another problem begins, so that the model's own answer is scored.

A base model that answered often writes the next problem of its prompt, or the next turn of a chat,
and answers that too.
"""

# ruff: noqa: RUF001 (letters of other scripts are meant)

from __future__ import annotations

import re
from collections import deque
from itertools import islice

from harness.core.schema import Item, Sample
from tasks.gsm8k.commitment import MAX_TEXT, committed

# The first ends a base model's next problem; the others end a chat turn if the tokenizer's own end
# of sequence differs. None of them can be inside an answer.
STOP = ("\n\nQuestion:", "</s>", "<|im_end|>", "<|eot_id|>")

MAX_HEADINGS = 30  # the text after so many is not read
MAX_POSED = 600  # characters of a problem
SIMILAR = 0.7  # share of words from which on a text repeats another

# Ends a turn, or begins that of another speaker, whatever precedes it.
_TURN_ENDS = re.compile(
    r"</s>|<[|｜](?!channel|message|constrain)[\w▁ ]{1,24}[|｜]>"
    r"|<(?:end|start)_of_turn>|<turn\|>|<eos>|\[/?INST\]"
)
_REASONING = re.compile(
    r"<(?P<end>/?)(?:think|thinking|thought|reasoning)>|\[(?P<end2>/?)THINK\]"
    r"|◁(?P<end3>/?)think▷",
    re.IGNORECASE,
)
_FINAL_CHANNEL = "<|channel|>final<|message|>"
_MARKS = r"^[ \t#>*_\[<(-]{0,12}(?:[0-9]{1,2}[.)][ \t]{1,3}[*_]{0,2})?"
_SPEAKER = re.compile(
    rf"{_MARKS}(?:(?:human|user|system)[ \t]?[*_]{{0,2}}:|(?<=# )(?:instruction|input)\b)"
    r"|^(?:human|user)[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
# Speakers who may also stand in an answer's own table.
_OTHER_SPEAKER = re.compile(
    rf"{_MARKS}(?:student|teacher|customer|assistant|ai|bot|tutor)[ \t]?[*_]{{0,2}}:",
    re.IGNORECASE | re.MULTILINE,
)
_HEADING = re.compile(
    rf"{_MARKS}(?:(?:here(?: is|'s) )?(?:the )?"
    r"(?:next|new|another|bonus|follow-?up|math|maths|word|practice|similar) ){0,2}"
    r"(?P<kind>(?P<poses>question|problem|q|pregunta|frage|aufgabe|problema|problème|domanda|"
    r"pergunta|вопрос|задача|"
    r"问题|問題|问|問|문제|질문)"
    r"|exercise|example|puzzle|task|input|instruction|prompt|practice|sample input)"
    r"(?:[ \t]{0,3}(?:no\.?[ \t]?|\#)?[ \t]?(?P<number>[0-9]{1,4})"
    r"(?:[ \t]?[:.)\]>]|[ \t]?[*_]{0,2}[ \t]?$)"
    r"|[ \t]?[*_]{0,2}[ \t]?[:\]>：]|\.(?=[ \t])|(?<=\nq)\)(?=[ \t])"
    r"|(?<=# question)$|(?<=# problem)$)"
    r"|(?<=[0-9.!])[ \t]{1,3}(?:Question|Problem|Q)(?:[ \t][0-9]{1,3})?:"
    r"|^(?:now,? )?(?:please )?(?:solve|try|answer) (?:this|the (?:following|next))"
    r"(?: (?:one|problem|question|exercise)){0,2}[:.]",
    re.IGNORECASE | re.MULTILINE,
)
_ANSWER_LABEL = re.compile(
    rf"{_MARKS}(?:(?:answer|solution|response|assistant|output|completion|respuesta|antwort|"
    r"réponse|resposta|risposta|ответ|答案|答|答え|"
    r"정답|답)[ \t]?[*_]{0,2}[ \t]?(?:[:\]>：]|$)|a[ \t]?[:.)])",
    re.IGNORECASE | re.MULTILINE,
)
_WORD = re.compile(r"[^\W_]+")
# Words of headings and instructions, not of the problem itself.
_FRAME = frozenset("question problem exercise example puzzle task input q next new another".split())


def own_sample(item: Item, sample: Sample) -> Sample:
    """Cut the response of `sample` to its own answer, which then ended by itself."""
    response = own_answer(sample.response, item.prompt)
    if response == sample.response:
        return sample
    is_cut = not sample.response.endswith(response)  # other than by its reasoning
    reason = "stop" if is_cut and sample.finish_reason else sample.finish_reason
    return sample.model_copy(update={"response": response, "finish_reason": reason})


def until_stop(response: str) -> str:
    """Cut `response` before the first of the stop strings, as an engine does."""
    for stop in STOP:
        response = response.partition(stop)[0]
    return response


def without_reasoning(response: str) -> str:
    """Return what follows the reasoning, or all of `response` where nothing follows it.

    Tags may lack their opening, which some templates write into the prompt.
    """
    final = response.rpartition(_FINAL_CHANNEL)
    if final[1]:
        return final[2]
    last = deque(_REASONING.finditer(response), maxlen=1)
    if not last or not any(last[0][name] for name in ("end", "end2", "end3")):
        return response
    answer = response[last[0].end() :]
    return answer if answer.strip() else response


def own_answer(response: str, prompt: str = "") -> str:
    """Cut `response` to its answer: after reasoning in tags, before the next problem or turn.

    `prompt` is what the model was asked. A question that repeats it, or a part of it, as a model
    does that thinks aloud, is not another problem.
    """
    response = without_reasoning(until_stop(response))
    begun = len(response) - len(response.lstrip())
    if ends := _TURN_ENDS.search(response, begun + 1):
        response = response[: ends.start()]
    if speaks := _SPEAKER.search(response, begun + 1):
        response = response[: speaks.start()]
    for speaks in islice(_OTHER_SPEAKER.finditer(response, begun + 1), MAX_HEADINGS):
        if committed(response[max(0, speaks.start() - MAX_TEXT) : speaks.start()]):
            return response[: speaks.start()]
    for count, match in enumerate(_HEADING.finditer(response)):
        if count == MAX_HEADINGS or _poses_another(response, match, prompt):
            return response[: match.start()]
    return response


def _poses_another(response: str, heading: re.Match[str], prompt: str) -> bool:
    """Check whether another problem than that of `prompt` begins at `heading`."""
    before = response[max(0, heading.start() - MAX_TEXT) : heading.start()]
    if not re.search("[0-9]", before):
        return False  # nothing can have been answered
    after = response[heading.end() : heading.end() + MAX_POSED]
    label = _ANSWER_LABEL.search(after)
    posed = after[: label.start()] if label else after.strip().partition("\n\n")[0]
    is_answered = committed(before) is not None
    if _share(posed, prompt) >= SIMILAR:  # the whole problem once more, or a part of it
        return is_answered and _share(prompt.partition("\n\n")[0], posed) >= SIMILAR
    first_line = posed.strip().partition("\n")[0].partition("?")[0]
    tells = bool(
        heading["poses"] and prompt and re.search("[0-9]", first_line) and "=" not in first_line
    )
    if heading["number"] and int(heading["number"]) > 1 and "=" not in first_line:
        tells |= re.search(rf"\b{heading['kind']}\b", before, re.IGNORECASE) is None
    return is_answered or label is not None or tells


def _share(text: str, other: str) -> float:
    """Compute the share of the words of `text` that `other` has."""
    words = [word for word in _WORD.findall(text.lower()) if word not in _FRAME]
    known = set(_WORD.findall(other.lower()))
    return sum(word in known for word in words) / len(words) if words else 0.0
