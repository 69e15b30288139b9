"""Detect whether a response declines to answer.

content: a response declines if it refuses or asks back, and states nothing else about the person.
generic and search: the two rule sets that FActScore published, for comparison with its numbers.
All of them count an empty response.
"""

# ruff: noqa: RUF001 (letters of other scripts are meant)

from __future__ import annotations

import re
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


def _any(*patterns: str, start: str = r"\b") -> re.Pattern[str]:
    return re.compile("|".join(start + pattern for pattern in patterns), re.IGNORECASE)


_KIND = (
    r"(?:any|some|enough|sufficient|much|specific|detailed|reliable|verifiable|verified|further|"
    r"additional|credible|accurate|relevant|significant|substantial|notable|official|public(?:ly)?|"
    r"available|biographical|personal|historical|definitive|concrete|clear|solid|such|direct|"
    r"useful|pertinent|current|recent|up-to-date|known|documented|widely|well|real|confirmed|"
    r"published|or|and|the|an?|of|prominent|famous|readily|more|very|particular|recogni[sz]ed)"
)
_MATERIAL = (
    r"(?:info|information|details?|data|records?|knowledge|facts|biography|biographies|bio|"
    r"evidence|results?|sources?|references?|mentions?|documentation|match|matches|entry|entries|"
    r"trace|context|material|anything|nothing|recollection|memory|page|article|profile|idea|clue)"
)
_PERSON = (
    r"(?:person|people|individual|figure|personality|celebrity|one|anyone|anybody|somebody|"
    r"someone|nobody|character|athlete|artist|actor|actress|politician|musician|player|author|"
    r"writer|scientist|names?)"
)
_NOT = r"(?:not|n't|never|unable|cannot|no longer)"
_DENIED = rf"(?:\b{_NOT}\b|n't\b)"
_NEAR, _FAR = r"[^.;!?]{0,40}?", r"[^.;!?]{0,60}?"
_THAT_NAME = r"(?:that|this|the|the given|such a|the same) name"
_ABILITY = (
    r"(?:know|have|find|found|locate|located|provide|give|offer|verify|verified|confirm|confirmed|"
    r"recall|recogni[sz]e|identify|identified|familiar|aware|access|able|write|help|assist|"
    r"come across|answer|create|compose|produce|tell|share|generate|seem|discover|uncover|sure|"
    r"certain|comply|fulfill?|comment|discuss|speak|say|retrieve|browse|see|possess|determine|"
    r"supply|get|obtain|encountered|seen|heard)"
)
_NO_PERSON = (
    rf"(?:no|not|nothing|nobody|n't|any|little to no) (?:{_KIND},? ){{0,5}}"
    rf"(?:{_PERSON}|{_MATERIAL}|\w+ (?:named|called|by {_THAT_NAME}|with {_THAT_NAME}))\b"
    r"(?! (?:like|else|better|greater|who|whom|more)\b)"
)
_EXISTS = (
    r"(?:is|are|was|were|seems? to be|appears? to be|does(?: not|n't) (?:seem|appear) to be)"
    r" (?:currently |simply |virtually )?"
)

_REFUSAL = _any(
    # The writer does not know, have, find ...; "she did not find" is a fact.
    rf"(?:i|we)\b{_FAR}{_DENIED} {_NEAR}\b{_ABILITY}\b",
    r"(?:i|we)(?:'m| am| are|'re| was| were) "
    r"(?:unable|unfamiliar|unaware|unsure|uncertain|afraid|at a loss)\b",
    r"(?:i|we) (?:have|found|find|know|know of|see|could find|can find|was able to find|"
    r"am aware of) (?:absolutely )?(?:no|nothing|none|nobody|little to no)\b",
    r"(?:i|we) (?:lack|drew a blank|draw a blank|must decline|have to decline|decline|refuse|"
    r"failed to|fail to|struggled to)\b",
    r"(?:i|we) (?:know|found|find|have) (?:very )?(?:little|nothing) (?:of|on|about)\b",
    rf"(?:i|we)\b{_FAR}\bfound (?:nothing|no|nobody)\b",
    r"my (?:knowledge|training|database|data|records|sources|search|searches)\b "
    rf"{_FAR}(?:{_DENIED}|\bno\b|\bnothing\b)",
    # There is nothing, and nobody of that name.
    rf"(?:no|not any|little to no) (?:{_KIND} ){{0,4}}{_MATERIAL}\b{_FAR}\b(?:about|on|of|for|"
    r"regarding|concerning|available|found|exists?|with that|by that|matching|named|to be found|"
    r"was|were|is|are)\b",
    rf"there(?:'s | {_EXISTS}){_NO_PERSON}",
    rf"there (?:is|are)(?: not|n't) (?:{_KIND} ){{0,4}}(?:{_PERSON}|{_MATERIAL})\b",
    r"there's nothing\b",
    rf"(?:no|nobody|no one|none)\b{_FAR}\b(?:by|with|of|under|called) {_THAT_NAME}\b",
    rf"no (?:such|known) {_PERSON}\b",
    rf"nothing\b{_NEAR}\bknown to me\b",
    r"not among (?:them|those)\b",
    rf"(?:information|details|data|records|biography|sources?|results?)\b{_FAR}"
    r"\b(?:is|are|was|were|could|can|do|does)(?: not|n't|not) (?:be )?(?:\w+ )?(?:available|found|"
    r"exist|located|known|verified|provided|accessible|contain|include|mention)\b",
    r"(?:is|are|was|does|do|did)(?: not|n't) (?:appear to be |seem to be |believed to be )?"
    rf"(?:an?|any|in|among|part of) (?:{_KIND} |-|widely[ -]known |well[ -]known ){{1,5}}"
    rf"{_PERSON}\b",
    r"(?:is|are|was)(?: not|n't) (?:someone|somebody|a (?:name|person|figure)) "
    r"(?:i|that|who|whom|we|in)\b",
    r"(?:does|do|did)(?: not|n't) (?:seem to |appear to )?"
    r"(?:exist(?![:;])|ring a bell|match|correspond|turn up|come up|yield)\b",
    r"(?:outside|beyond|not (?:in|within|part of|covered by)) (?:of )?(?:my|the scope of my)\b",
    r"(?:unable|impossible|not possible|not able|difficult) (?:for me )?to (?:find|provide|locate|"
    r"verify|identify|confirm|write|give|create|determine|offer|answer|research)\b",
    r"(?:unknown|unfamiliar|(?:isn't|wasn't|not) known) to (?:me|us)\b",
    r"(?:i|we) have(?:n't| not) (?:any|much|the|enough)\b",
    r"(?:i|we)(?:'d| would| will|'ll)? need to know\b",
    rf"(?:not enough|insufficient) {_MATERIAL}\b",
    r"(?:against|violates?) my\b",
    rf"(?:your|this|the) (?:search|query|request)\b{_NEAR}\b(?:no|not|nothing|cannot|n't)\b",
    r"(?:search results|sources) (?:do|did|does) not\b",
    r"(?<!\bhe )(?<!\bshe )(?<!\bthey )could not be "
    r"(?:found|located|verified|identified|confirmed)\b",
    r"as an? (?:\w+ ){0,2}(?:ai|artificial intelligence|language model|assistant)\b"
    rf"[^.;!?]{{0,80}}?(?:{_DENIED}|\bno\b)",
    r"(?:without|(?<!you )need|needs|require|requires|lacking) (?:\w+ ){0,2}"
    r"(?:more|additional|further|specific|extra) (?:\w+ ){0,2}"
    r"(?:information|context|details?|specifics)\b",
    # The whole sentence, and other languages.
    r"(?:es tut mir leid|lo siento|je suis désolée?|désolée?|mi dispiace|sinto muito|desculpe|"
    r"het spijt me|извините|к сожалению|przepraszam|tyvärr|lamento|üzgünüm|"
    r"leider (?:habe|kann|kenne|konnte))\b",
    r"ich (?:kenne|habe|kann|weiß|finde|konnte|bin)\b[^.!?]{0,30}\b(?:keine?n?|nicht|nichts)\b",
    r"je n(?:e |')(?:ai|connais|peux|trouve|sais|suis|dispose)\b[^.!?]{0,12}"
    r"\b(?:pas|aucune?|rien|jamais)\b",
    r"no (?:tengo|conozco|puedo|encuentro|encontré|pude|dispongo|sé)\b",
    r"non (?:ho|conosco|posso|trovo|so|sono in grado|dispongo)\b",
    r"não (?:tenho|conheço|posso|encontrei|sei|consigo)\b",
    r"ik (?:heb|ken|kan|weet|vind)\b[^.!?]{0,20}\b(?:geen|niet|niets)\b",
    r"(?:у меня нет|я не (?:знаю|нашел|нашёл|могу|имею))\b",
    r"мне (?:ничего |о нём |о ней )?не ?(?:известн|знаком)",
    r"nie (?:mam|znam|mogę|znalazłem|wiem)\b",
)
_WHOLE_REFUSAL = _any(
    rf"(?:no|nothing) (?:{_KIND} ){{0,3}}{_MATERIAL}?\W*(?:found|available|known|to report)?\W*$",
    r"[^.!?]{0,80}:\s*(?:not (?:available|found|known)|unavailable|unknown|none|n/a)\W*$",
    r"(?:n/?a|unknown|i pass|no comment|sorry|i decline)\W*$",
    r"[^.!?]{0,20}(?:抱歉|对不起|對不起|申し訳|죄송|我没有|我沒有|我不知道|我无法|我無法|没有找到|"
    r"わかりません|見つかりません|情報がありません|存じません|정보가 없|모릅니다|찾을 수 없)",
    # Apologies.
    r"\W*(?:oh,? |well,? |unfortunately,? |regrettably,? )*(?:i\s?(?:am|'m)|we\s?(?:are|'re))?\s*"
    r"(?:very |so |truly |really |terribly |deeply )?"
    r"(?:sorry|apologi[sz]e|apologies|my apologies|regret)\b",
    r"\W*i (?:do )?(?:sincerely )?(?:apologi[sz]e|regret)\b",
    start="^",
)
_TALK = _any(
    r"(?:could|can|would|will|may|might) (?:you|i ask)\b",
    r"please (?:\w+ )?(?:provide|clarify|specify|share|tell|give|supply|let|confirm|check|add|be|"
    r"elaborate|try|note|double|feel|consider|send|name|consult|refer|verify)\b",
    r"(?:if|unless|whether) you\b",
    r"(?:do|did|are|were) you\b",
    r"(?:feel free|let me know|happy to|glad to|i hope)\b",
)
_ASKS_WHO = _any(
    r"(?:provide|share|give|tell|supply|add|send|offer|have|without)\b[^.?!]{0,60}\b(?:more|"
    r"additional|further|specific|any|other|extra|some|which|who|what|profession|nationality|"
    r"occupation)\b",
    r"be (?:a (?:bit|little) )?more (?:specific|precise)\b",
    r"(?:clarify|specify|elaborate|spelling|spelled|spelt|context)\b",
    r"(?:which|who|what|whom)\b[^.?!]{0,60}\b(?:you mean|you are referring|you're referring|"
    r"do you|is meant|are you|is he|is she|they are)\b",
    r"(?:do|did|are|if) you "
    r"(?:mean|meant|refer|are referring|referring|talking|thinking|intend)\b",
    r"help me (?:to )?(?:identify|understand|find|narrow)\b",
)
_OTHERS = _any(
    r"(?:similar|other|different|related) "
    r"(?:names?|people|persons|individuals|figures|spellings?)\b",
    r"(?:someone else|thinking of|similar(?:ly)?[ -](?:named|sounding))\b",
)
# Says nothing certain about the person: guesses, the name itself, the writer, the reader.
_ASIDE = _any(
    r"(?:it(?: is|'s) (?:quite )?(?:possible|likely)|possibly|perhaps|maybe|probably|presumably)\b",
    r"(?:might|(?-i:may)) not\b",
    r"(?:might|(?-i:may)|could|would|should) (?:also |well |simply |just |still |not )?"
    r"(?:be|have|refer|need|require|help)\b",
    r"(?:seems?|appears?) (?:that|to be|as|like)\b",
    r"names?\b[^.]{0,60}\b(?:common|shared|several|many|multiple|mis-?spelled|misspelt|incorrect|"
    r"spelling|refer)\b",
    r"(?:several|many|multiple|numerous|various|a few|a number of|more than one|different|lots of) "
    r"(?:\w+ ){0,2}(?:people|individuals|persons|figures|men|women|names?)\b",
    r"(?:i|i'm|i've|i'd|me|my|you|your|yours|we|our)\b",
    r"(?:privacy|spelling|typo|language model|ai model|training data|knowledge cutoff|fictional|"
    r"private (?:person|individual|citizen)|search engines?|online search)\b",
    r"there (?:is|are|was|were)\b.{0,80}"
    r"\b(?:named|called|by (?:that|the) name|with (?:that|the|a similar) name)\b",
)
_ADVICE = _any(
    r"\W*(?:check|search|look|try|visit|consult|contact|use|ask|verify|consider|review|"
    r"double-check|explore|reach out|refer|see|note|provide|include)\b",
    start="^",
)
# Marks a statement about a person: a pronoun, a number, a name that does not begin it.
_NAMED = re.compile(
    r"\b(?:[Hh]e|[Ss]he|[Hh]is|[Hh]er|[Hh]im|[Tt]hey|[Tt]heir)\b|\d|(?<=\S )[^\W\d_a-z]\w*"
)
_PASSING = _any(
    r"\W*i (?:can|could|may|do|will|'ll) (?:only )?(?:tell|say|share|confirm|offer|know)"
    r"(?: you)?(?: that)? ",
    start="^",
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
