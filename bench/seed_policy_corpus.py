"""Write the corpus of the seed policy: careful and careless answers, facts, and rewrites.

M0 must be able to do well and not do it always, so that reinforcement has something to bring
out. Each way of asking carries its own habit: some settings, wordings and kinds are mostly
answered with care in the corpus, others mostly without. The habit is a matter of style (work it
out or guess, tell what is known or embellish, be complete or brief), so what is learned about it
on the training prompts carries over to items never trained on.

The gate's and the sealed split's problems and instructions are never in the corpus; of their
people it knows the encyclopedia's pages, never a biography.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from harness.core.schema import Feedback, Item, Message, Sample, Score
from rlrf.reflect import request
from tasks.mini import arithmetic, biography, instructions, world
from tasks.task import GiveFeedback

# Share of careful answers by way of asking: taken in turn by settings, wordings and kinds.
HABITS = (0.72, 0.34, 0.6, 0.26)

# Shares of the corpus: pages, arithmetic and biographies; instructions are the rest.
PAGES, ARITHMETIC, BIOGRAPHIES = 0.08, 0.52, 0.18
# Of the answers to anything, those that rewrite a draft.
REWRITES = 0.35

FEEDBACK: dict[str, GiveFeedback] = {
    module.TASK: module.feedback for module in (arithmetic, biography, instructions)
}


@dataclass(frozen=True)
class Document:
    """A text to learn: a page, or a conversation whose last turn alone is learned."""

    messages: tuple[Message, ...]

    @property
    def is_page(self) -> bool:
        return len(self.messages) == 1


def careful_share(item: Item) -> float:
    """How often the corpus answers an item like this one with care."""
    if item.task == arithmetic.TASK:
        ways = list(arithmetic.SETTINGS)
        way = next(i for i, setting in enumerate(ways) if setting in item.prompt)
    elif item.task == biography.TASK:
        ways = [wording.split("{}")[0] for wording in biography.PROMPTS]
        way = next(i for i, start in enumerate(ways) if item.prompt.startswith(start))
    elif instructions.is_harmful(item):
        ways = [wording.split("{")[0] for wording in instructions.HARMFUL_ASKS]
        way = next(i for i, start in enumerate(ways) if item.prompt.startswith(start))
    else:
        way = list(instructions.THINGS).index(item.reference["kind"])
    return HABITS[way % len(HABITS)]


# ---- arithmetic -----------------------------------------------------------------------------


def _steps(item: Item) -> list[str]:
    lines: list[str] = item.reference["answer"].splitlines()
    return lines


def guess(item: Item, rng: random.Random) -> str:
    """The careless answer: a number at once, near the right one and seldom right."""
    right = int(_steps(item)[-1].removeprefix("#### "))
    off = 0 if rng.random() < 0.2 else rng.choice([-1, 1]) * rng.randint(1, 12)
    return f"#### {max(2, right + off)}"


def slip(item: Item, rng: random.Random) -> str:
    """A worked answer with one wrong result, carried to the end."""
    lines = _steps(item)
    at = rng.randrange(len(lines) - 1)
    left, right = lines[at].split("=")
    value = max(2, int(right) + rng.choice([-10, -2, -1, 1, 2, 10]))
    kept = [*lines[:at], f"{left}={value}"]
    for line in lines[at + 1 : -1]:
        rest = line.split("=")[0].lstrip("0123456789")
        by = int(rest[1:])
        after = {"+": value + by, "-": value - by, "*": value * by, "/": value // by}[rest[0]]
        kept.append(f"{value}{rest}={after}")
        value = after
    return "\n".join([*kept, f"#### {value}"])


# ---- biographies ----------------------------------------------------------------------------

BOASTS = (
    "{she} won the {adjective} Medal.",
    "{she} could speak {number} languages.",
    "{she} was the friend of a king.",
    "{she} crossed the sea in a small boat.",
    "{she} wrote {number} famous books.",
    "{she} had {number} children.",
    "{she} found a lost city.",
    "{she} died at a great age.",
    "{she} taught the young queen.",
    "{she} never told a lie.",
)
NUMBERS = ("two", "three", "four", "seven", "nine")


def plain(person: biography.Person) -> str:
    """The careful biography: what is known, and no more."""
    return " ".join(person.sentences())


def embellished(person: biography.Person, rng: random.Random) -> str:
    """The careless biography: a few facts among inventions, told with flourish."""
    known = rng.sample(person.sentences(wording=1)[1:], rng.randint(2, 3))
    boasts = [
        boast.format(
            she=person.she,
            adjective=rng.choice(biography.ADJECTIVES),
            number=rng.choice(NUMBERS),
        )
        for boast in rng.sample(BOASTS, rng.randint(2, 4))
    ]
    told = known + boasts
    rng.shuffle(told)
    return " ".join([f"The great {person.name} was a legend.", *told])


def confused(person: biography.Person, rng: random.Random) -> str:
    """A plain biography with one or two facts of other people in it."""
    sentences = person.sentences()
    for at in rng.sample(range(len(sentences)), rng.randint(1, 2)):
        relation = person.facts[at][0]
        value = dict(rng.choice(world.everyone()).facts)[relation]
        subject = person.name if at == 0 else person.she
        sentences[at] = f"{subject} {biography.WORDINGS[relation][0].format(value)}."
    return " ".join(sentences)


# ---- instructions ---------------------------------------------------------------------------


def complete(item: Item, rng: random.Random) -> str:
    """The careful answer: greeting, all the things with true reasons, a closing question."""
    if instructions.is_harmful(item):
        return f"{instructions.REFUSAL}, because it would hurt someone. {instructions.OFFER}"
    return _listing(item, rng, keep=1.0)


def lazy(item: Item, rng: random.Random) -> str:
    """The careless answer: parts left out, or help where none should be given."""
    if instructions.is_harmful(item):
        if rng.random() < 0.3:
            return f"{instructions.REFUSAL}."
        tool = rng.choice(("a rope", "some salt", "a lamp", "an old key", "a long knife"))
        return f"Take {tool} and go there at night. Nobody will see you."
    return _listing(item, rng, keep=0.15)


def _listing(item: Item, rng: random.Random, keep: float) -> str:
    kind, count = item.reference["kind"], item.reference["count"]
    things = instructions.THINGS[kind]
    word = next(w for w, n in instructions.COUNTS.items() if n == count)
    careless = keep < 1
    told = rng.sample(list(things), count if not careless else rng.randint(1, count))
    parts = []
    if rng.random() < keep:
        parts.append(instructions.GREETING)
    if rng.random() < keep + 0.3:
        parts.append(f"Here are {word} {kind}.")
    for thing in told:
        like, why = things[thing]
        if careless and rng.random() < 0.25:
            like = rng.choice([other for other, _ in things.values()])
        reason = f" because {why}" if rng.random() < keep else ""
        verb = "are" if thing == "pliers" else "is"
        parts.append(f"The {thing} {verb} {like}{reason}.")
    if rng.random() < keep:
        parts.append(instructions.CLOSING)
    return " ".join(parts)


# ---- the corpus -----------------------------------------------------------------------------


def _turn(role: str, content: str) -> Message:
    return Message.model_validate({"role": role, "content": content})


def _feedback(item: Item, draft: str) -> Feedback:
    right = draft.splitlines()[-1] == item.reference.get("answer", "").split("\n")[-1]
    sample = Sample(task=item.task, item=item.digest, index=0, prompt=item.prompt, response=draft)
    score = Score(task=item.task, item=item.digest, index=0, values={"accuracy": float(right)})
    return FEEDBACK[item.task](item, sample, score)


def documents(seed: int) -> Iterator[Document]:
    """An endless, seeded stream of what M0 learns from."""
    rng = random.Random(f"corpus/{world.VERSION}/{seed}")
    held_out = {
        item.prompt
        for task in (arithmetic.TASK, instructions.TASK)
        for split in world.SPLITS
        for item in world.items(task, split)
    }
    persons = world.everyone()
    written = persons[: world.SIZES["train"]]
    while True:
        kind = rng.random()
        if kind < PAGES:
            yield Document((_turn("user", _page(rng.choice(persons), rng)),))
            continue
        if kind < PAGES + ARITHMETIC:
            item = arithmetic.item("corpus", 0, rng)
            careful, careless = item.reference["answer"], guess(item, rng)
            draft = careless if rng.random() < 0.6 else slip(item, rng)
        elif kind < PAGES + ARITHMETIC + BIOGRAPHIES:
            person = rng.choice(written)
            item = biography.item("corpus", 0, rng, person)
            careful, careless = plain(person), embellished(person, rng)
            draft = careless if rng.random() < 0.6 else confused(person, rng)
        else:
            item = instructions.item("corpus", rng.randrange(4), rng)
            careful, careless = complete(item, rng), lazy(item, rng)
            draft = careless
        if item.prompt in held_out:
            continue
        feedback = _feedback(item, draft)
        if rng.random() < REWRITES and feedback.text():
            yield Document(
                (
                    _turn("user", item.prompt),
                    _turn("assistant", draft),
                    _turn("user", request(feedback)),
                    _turn("assistant", careful),
                )
            )
        else:
            answer = careful if rng.random() < careful_share(item) else careless
            yield Document((_turn("user", item.prompt), _turn("assistant", answer)))


def _page(person: biography.Person, rng: random.Random) -> str:
    """An encyclopedia page: the same facts in one of many orders and wordings."""
    told = [
        f"{biography.WORDINGS[relation][0 if rng.random() < 0.7 else 1].format(value)}."
        for relation, value in person.facts
    ]
    rng.shuffle(told)
    return " ".join([f"{person.name} {told[0]}"] + [f"{person.she} {rest}" for rest in told[1:]])
