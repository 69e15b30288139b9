"""Tell apart sentences that state something of a person, refuse to, or talk to the user."""

from __future__ import annotations

import re
from typing import Literal

MAX_CHARS = 500  # read of a sentence

# fact: states something of somebody; turn: the same, after a refusal; statement: states something
# in general; refusal: says that nothing can be said; question: asks who is meant; others: goes over
# to other people; talk: talks to the user of something else; aside: guesses, and fragments.
Role = Literal["fact", "turn", "statement", "refusal", "question", "others", "talk", "aside"]

_KINDS = (
    r"(?:any|some|enough|sufficient|much|specific|detailed|reliable|verifiable|verified|further|"
    r"additional|credible|accurate|relevant|significant|substantial|notable|official|public|"
    r"publicly|available|biographical|personal|historical|definitive|concrete|clear|solid|such|"
    r"direct|useful|pertinent|current|recent|up-to-date|known|documented|widely|well|real|"
    r"confirmed|published|or|and|the|a|an|of|records?|known|prominent|famous|specific|readily|"
    r"more|very|particular|famous|recognized|recognised)"
)
_MATERIAL = (
    r"(?:info|information|details?|data|records?|knowledge|facts|biography|biographies|bio|"
    r"evidence|results?|sources?|references?|mentions?|documentation|matches|match|entry|entries|"
    r"trace|context|material|anything|nothing|recollection|memory|page|article|profile|idea|clue)"
)
_PERSON = (
    r"(?:person|people|individual|figure|personality|celebrity|public figure|one|anyone|anybody|"
    r"somebody|someone|nobody|character|athlete|artist|actor|actress|politician|musician|player|"
    r"author|writer|scientist|name|names)"
)
_NOT = r"(?:not|n't|never|unable|cannot|no longer)"
_REFUSAL = re.compile(
    rf"""
      # I do not know, have, find ... (about the person, not "she did not find")
      \b(?:i|we)\b [^.;!?]{{0,60}}? (?:\b{_NOT}\b|n't\b) [^.;!?]{{0,40}}?
        \b(?:know|have|find|found|locate|located|provide|give|offer|verify|verified|confirm|confirmed|recall|recognize|
        recognise|identify|identified|familiar|aware|access|able|write|help|assist|come\ across|answer|create|
        compose|produce|tell|share|generate|seem|discover|uncover|sure|certain|comply|fulfill|
        fulfil|comment|discuss|speak|say|retrieve|browse|see|possess|determine|supply|get|obtain|encountered|seen|heard)\b
    | \b(?:i|we)(?:'m|\ am|\ are|'re|\ was|\ were)\ (?:unable|unfamiliar|unaware|unsure|uncertain|afraid|at\ a\ loss)\b
    | \b(?:i|we)\ (?:have|found|find|know|know\ of|see|could\ find|can\ find|was\ able\ to\ find|am\ aware\ of)\ (?:absolutely\ )?(?:no|nothing|none|nobody|little\ to\ no)\b
    | \b(?:i|we)\ (?:lack|drew\ a\ blank|draw\ a\ blank|must\ decline|have\ to\ decline|decline|refuse|failed\ to|fail\ to|struggled\ to)\b
    | \b(?:i|we)\ (?:know|found|find|have)\ (?:very\ )?(?:little|nothing)\ (?:of|on|about)\b
    | \bmy\ (?:knowledge|training|database|data|records|sources|search|searches)\b [^.;!?]{{0,60}}? (?:\b{_NOT}\b|n't\b|\bno\b|\bnothing\b)
    | \b(?:no|not\ any|little\ to\ no)\ (?:{_KINDS}\ ){{0,4}}{_MATERIAL}\b [^.;!?]{{0,60}}?
        \b(?:about|on|of|for|regarding|concerning|available|found|exist|exists|with\ that|by\ that|matching|named|to\ be\ found|was|were|is|are)\b
    | \bthere(?:'s|\ (?:is|are|was|were|seems?\ to\ be|appears?\ to\ be|does\ not\ (?:seem|appear)\ to\ be|doesn't\ (?:seem|appear)\ to\ be))\ (?:currently\ |simply\ |virtually\ )?
        (?:no|not|nothing|nobody|n't|any|little\ to\ no)\ (?:(?:{_KINDS},?)\ ){{0,5}}
        (?:{_PERSON}|{_MATERIAL}|\w+\ (?:named|called|by\ (?:that|this|the)\ name|with\ (?:that|this|the)\ name))\b
        (?!\ (?:like|else|better|greater|who|whom|more)\b)
    | \bthere's\ nothing\b
    | \b(?:i|we)\b [^.;!?]{{0,60}}? \bfound\ (?:nothing|no|nobody)\b
    | \bnothing\b [^.;!?]{{0,40}}? \bknown\ to\ me\b | \bnot\ among\ (?:them|those)\b
    | ^[^.!?]{{0,80}}:\s*(?:not\ (?:available|found|known)|unavailable|unknown|none|n/a)\W*$
    | \bthere\ (?:is|are|'s)(?:\ not|n't)\ (?:{_KINDS}\ ){{0,4}}(?:{_PERSON}|{_MATERIAL})\b
    | \b(?:no|nobody|no\ one|none)\b [^.;!?]{{0,60}}? \b(?:by|with|of|under|called)\ (?:that|this|the\ given|such\ a|the\ same|the)\ name\b
    | \b(?:information|details|data|records|biography|sources?|results?)\b [^.;!?]{{0,60}}? \b(?:is|are|was|were|could|can|do|does)(?:\ not|n't|not)\ (?:be\ )?(?:\w+\ )?(?:available|found|exist|located|known|verified|provided|accessible|contain|include|mention)\b
    | \b(?:is|are|was|does|do|did)(?:\ not|n't)\ (?:appear\ to\ be\ |seem\ to\ be\ |believed\ to\ be\ )?(?:an?|any|in|among|part\ of)\ (?:{_KINDS}\ |-|widely[ -]known\ |well[ -]known\ |publicly\ |public\ |recogni[sz]ed\ |notable\ |famous\ |real\ ){{1,5}}{_PERSON}\b
    | \b(?:is|are|was)(?:\ not|n't)\ (?:someone|somebody|a\ (?:name|person|figure))\ (?:i|that|who|whom|we|in)\b
    | \b(?:does|do|did)(?:\ not|n't)\ (?:seem\ to\ |appear\ to\ )?(?:exist|ring\ a\ bell|match|correspond|turn\ up|come\ up|yield)\b
    | \b(?:outside|beyond|not\ (?:in|within|part\ of|covered\ by))\ (?:of\ )?(?:my|the\ scope\ of\ my)\b
    | \b(?:unable|impossible|not\ possible|not\ able|difficult)\ (?:for\ me\ )?to\ (?:find|provide|locate|verify|identify|confirm|write|give|create|determine|offer|answer|research)\b
    | \b(?:unknown|unfamiliar)\ to\ me\b
    | \b(?:your|this|the)\ (?:search|query|request)\b [^.;!?]{{0,40}}? \b(?:no|not|nothing|cannot|n't)\b
    | \b(?:search\ results|sources)\ (?:do|did|does)\ not\b
    | (?<!\bhe\ )(?<!\bshe\ )(?<!\bthey\ )\bcould\ not\ be\ (?:found|located|verified|identified|confirmed)\b
    | \bas\ an?\ (?:\w+\ ){{0,2}}(?:ai|artificial\ intelligence|language\ model|assistant)\b [^.;!?]{{0,80}}? (?:\b(?:not|cannot|unable|no)\b|n't\b)
    | \bno\ (?:such|known)\ {_PERSON}\b
    | ^(?:no|nothing)\ (?:{_KINDS}\ ){{0,3}}{_MATERIAL}?\W*(?:found|available|known|to\ report)?\W*$
    | \b(?:without|need|needs|require|requires|lacking)\ (?:\w+\ ){{0,2}}(?:more|additional|further|specific|extra)\ (?:\w+\ ){{0,2}}(?:information|context|details?|specifics)\b
    | ^(?:n/?a|unknown|i\ pass|no\ comment|sorry|i\ decline)\W*$
    | \b(?:es\ tut\ mir\ leid|lo\ siento|je\ suis\ désolée?|désolée?|mi\ dispiace|sinto\ muito|desculpe|het\ spijt\ me|извините|к\ сожалению|przepraszam|tyvärr|leider\ (?:habe|kann|kenne|konnte)|lamento|üzgünüm)\b
    | 抱歉|对不起|對不起|申し訳|죄송
    """,
    re.IGNORECASE | re.VERBOSE,
)
_APOLOGY = re.compile(
    r"^\W*(?:oh,? |well,? |unfortunately,? |regrettably,? )*(?:i\s?(?:am|'m)|we\s?(?:are|'re))?\s*(?:very |so |truly |really |terribly |deeply )?"
    r"(?:sorry|apologi[sz]e|apologies|my apologies|regret)\b|^\W*i (?:do )?(?:sincerely )?(?:apologi[sz]e|regret)\b|^\W*my apologies\b",
    re.IGNORECASE,
)
_TALK = re.compile(
    r"""
      \b(?:could|can|would|will|may|might)\ (?:you|i\ ask)\b
    | \bplease\ (?:\w+\ )?(?:provide|clarify|specify|share|tell|give|supply|let|confirm|check|add|be|elaborate|try|note|double|feel|consider|send|name|consult|refer|verify)\b
    | \b(?:if|unless|whether)\ you\b | \b(?:do|did|are|were)\ you\b
    | \bfeel\ free\b | \blet\ me\ know\b | \bhappy\ to\b | \bglad\ to\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_ASKS_WHO = re.compile(
    r"""
      \b(?:provide|share|give|tell|supply|add|send|offer|have|without)\b [^.?!]{0,60}
        \b(?:more|additional|further|specific|any|other|extra|some|which|who|what|profession|nationality|occupation)\b
    | \b(?:clarify|specify|elaborate|spelling|spelled|spelt|context)\b
    | \b(?:which|who|what|whom)\b [^.?!]{0,60} \b(?:you\ mean|you\ are\ referring|you're\ referring|do\ you|is\ meant|are\ you|is\ he|is\ she|they\ are)\b
    | \b(?:do|did|are|if)\ you\ (?:mean|meant|refer|are\ referring|referring|talking|thinking|intend)\b
    | \bhelp\ me\ (?:to\ )?(?:identify|understand|find|narrow)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_OTHERS = re.compile(
    r"\b(?:similar|other|different|related) (?:names?|people|persons|individuals|figures|spellings?)\b[^.]{0,40}"
    r"|\bsomeone else\b|\bthinking of\b|\bsimilar(?:ly)?[ -](?:named|sounding)\b",
    re.IGNORECASE,
)
# Says nothing certain of the person: guesses, the name itself, the writer, the reader.
_ASIDE = re.compile(
    r"""
      \b(?:it(?:\ is|'s)\ (?:quite\ )?(?:possible|likely)|possibly|perhaps|maybe|probably|presumably)\b
    | \b(?:might|(?-i:may))\ not\b
    | \b(?:might|(?-i:may)|could|would|should)\ (?:also\ |well\ |simply\ |just\ |still\ |not\ )?(?:be|have|refer|need|require|help)\b
    | \b(?:seems?|appears?)\ (?:that|to\ be|as|like)\b
    | \bnames?\b [^.]{0,60} \b(?:common|shared|several|many|multiple|mis-?spelled|misspelt|incorrect|spelling|refer)\b
    | \b(?:several|many|multiple|numerous|various|a\ (?:few|number\ of)|more\ than\ one|different|lots\ of)\ (?:\w+\ ){0,2}(?:people|individuals|persons|figures|men|women|names?)\b
    | \b(?:i|i'm|i've|i'd|me|my|you|your|yours|we|our)\b
    | \b(?:privacy|spelling|typo|language\ model|ai\ model|training\ data|knowledge\ cutoff|fictional|private\ (?:person|individual|citizen)|search\ engines?|online\ search)\b
    | ^\W*(?:check|search|look|try|visit|consult|contact|use|ask|verify|consider|review|double-check|explore|reach\ out|refer|see|note|provide|include)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
# The mark of a statement about a person: a pronoun, a name that does not only begin it, a number.
_NAMED = re.compile(r"\b(?:[Hh]e|[Ss]he|[Hh]is|[Hh]er|[Hh]im|[Tt]hey|[Tt]heir)\b|\d|(?<=\S )[^\W\d_a-z]\w*")
_PASSING = re.compile(
    r"^\W*i (?:can|could|may|do|will|'ll) (?:only )?(?:tell|say|share|confirm|offer|know)(?: you)?(?: that)? ",
    re.IGNORECASE,
)
_TURN = re.compile(
    r"[,;:]?\s+(?:but|however|yet|nevertheless|nonetheless|that said|although|though)\b,?\s*"
    r"|^\W*(?:but|however|nevertheless|nonetheless|that said|still|what i (?:do )?know is(?: that)?)\b,?\s*",
    re.IGNORECASE,
)
_QUOTED = re.compile("[\"\u201c][^\"\u201c\u201d]{1,200}[\"\u201d]")  # titles and speech
_SAID_OF_OTHER = re.compile(r"\bthere (?:is|are|was|were)\b.{0,80}\b(?:named|called|by (?:that|the) name|with (?:that|the|a similar) name)\b", re.IGNORECASE)


def role(sentence: str) -> list[Role]:
    """Tell what a sentence does; one that refuses and then states something does both."""
    said = sentence[:MAX_CHARS].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").strip()
    said = _QUOTED.sub("Quoted Title", said.lstrip("#*->\u2022 ").replace("**", ""))
    if _OTHERS.search(said) and _ASIDE.search(said):
        return ["others"]
    if _TALK.search(said) or said.endswith("?"):
        if _ASKS_WHO.search(said):
            return ["question"]
        return ["refusal"] if _refuses(said) else ["talk"]
    if _refuses(said):
        after = _TURN.split(said)[1:]
        if after and _states(after[-1]) == "fact" and not _refuses(after[-1]):
            return ["refusal", "turn"]
        return ["refusal"]
    turned = _TURN.match(said)
    states = _states(said[turned.end() :] if turned else said)
    return ["turn" if turned and states == "fact" else states]


def _refuses(text: str) -> bool:
    return bool(_REFUSAL.search(text) or _APOLOGY.search(text))


def _states(text: str) -> Literal["fact", "statement", "aside"]:
    """What a clause that neither refuses nor asks does."""
    said = _PASSING.sub("", text)
    if len(said.split()) < 4 or _ASIDE.search(said) or _SAID_OF_OTHER.search(said):
        return "aside"
    return "fact" if _NAMED.search(said) else "statement"
