"""Cut a response where another problem begins, so that the model's own answer is scored.

A base model that answered often writes the next problem of its prompt, or the next turn of a chat,
and answers that too.
"""

from __future__ import annotations

import re

from harness.schema import Item, Sample
from tasks.gsm8k.commitment import MAX_TEXT, committed

# The first ends a base model's next problem; the others end a chat turn where the tokenizer's own
# end of sequence is another. None can stand inside an answer.
STOP = ("\n\nQuestion:", "</s>", "<|im_end|>", "<|eot_id|>")

MAX_HEADINGS = 30  # looked at; what follows so many is not read
MAX_POSED = 600  # characters of a problem
SIMILAR = 0.7  # share of words from which on a text repeats another

# What ends a turn, or begins one of another speaker, whatever stands before it.
_TURN_ENDS = re.compile(
    r"</s>|<\|(?:im_end|im_start|eot_id|eom_id|endoftext|end_of_text|end|start_header_id|user|"
    r"assistant|system|endofprompt)\|>|<(?:end|start)_of_turn>|<eos>|\[/?INST\]"
)
_MARKS = r"^[ \t#>*_-]{0,12}"
_SPEAKER = re.compile(
    rf"{_MARKS}(?:(?:human|user|system)[ \t]?[*_]{{0,2}}:|(?<=# )(?:instruction|input)\b)",
    re.IGNORECASE | re.MULTILINE,
)
_HEADING = re.compile(
    rf"{_MARKS}(?:(?:here(?: is|'s) )?(?:the )?(?:next|new|another|bonus) )?"
    r"(?:(?P<poses>question|problem|q)|exercise|example|puzzle|task|input)"
    r"(?:[ \t]{0,3}(?:no\.?[ \t]?|\#)?[ \t]?[0-9]{1,4}(?:[ \t]?[:.)]|[ \t]?[*_]{0,2}[ \t]?$)"
    r"|[ \t]?[*_]{0,2}[ \t]?:|\.(?=[ \t])|(?<=# question)$|(?<=# problem)$)"
    r"|(?<=[0-9.!])[ \t]{1,3}(?:Question|Problem|Q)(?:[ \t][0-9]{1,3})?:",
    re.IGNORECASE | re.MULTILINE,
)
_ANSWER_LABEL = re.compile(
    rf"{_MARKS}(?:(?:answer|solution|response|assistant|output)[ \t]?[*_]{{0,2}}[ \t]?(?::|$)"
    r"|a[ \t]?[:.])",
    re.IGNORECASE | re.MULTILINE,
)
_WORD = re.compile(r"[^\W_]+")
# Words of headings and instructions, which say nothing of what is asked.
_FRAME = frozenset("question problem exercise example puzzle task input q next new another".split())


def own_sample(item: Item, sample: Sample) -> Sample:
    """Cut the response of `sample` before the next problem; a response that is cut ended there."""
    response = own_answer(sample.response, item.prompt)
    if response == sample.response:
        return sample
    reason = None if sample.finish_reason is None else "stop"
    return sample.model_copy(update={"response": response, "finish_reason": reason})


def until_stop(response: str) -> str:
    """Cut `response` before the first of the stop strings, as an engine does."""
    for stop in STOP:
        response = response.partition(stop)[0]
    return response


def own_answer(response: str, prompt: str = "") -> str:
    """Cut `response` before the next problem or turn that it poses itself.

    `prompt` is what the model was asked. A question that repeats it, or a part of it, as a model
    does that thinks aloud, is not another problem.
    """
    response = until_stop(response)
    begun = len(response) - len(response.lstrip())
    if ends := _TURN_ENDS.search(response, begun + 1):
        response = response[: ends.start()]
    if speaks := _SPEAKER.search(response, begun + 1):
        response = response[: speaks.start()]
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
    tells = bool(heading["poses"] and prompt and re.search("[0-9]", posed.partition("?")[0]))
    return is_answered or label is not None or tells


def _share(text: str, other: str) -> float:
    """Compute the share of the words of `text` that `other` has."""
    words = [word for word in _WORD.findall(text.lower()) if word not in _FRAME]
    known = set(_WORD.findall(other.lower()))
    return sum(word in known for word in words) / len(words) if words else 0.0
