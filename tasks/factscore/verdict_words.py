"""Read the words by which a judge says that a statement is true or false (`verdict_words.toml`)."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from pathlib import Path

# The dot that case folding leaves of a Turkish capital I, and the variants of an emoji.
_INVISIBLE = dict.fromkeys((0x307, 0xFE0E, 0xFE0F))


def fold(text: str) -> str:
    """Normalise width and case, and drop invisible characters."""
    plain = unicodedata.normalize("NFKC", text).casefold().translate(_INVISIBLE)
    return "".join(c for c in plain if unicodedata.category(c) != "Cf")


_FILE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def _words(name: str) -> frozenset[str]:
    return frozenset(fold(_FILE[name]).split())


YES = _words("yes")
NO = _words("no")
TRUE = _words("true")
TRUE_UNLESS_DENIED = _words("true_unless_denied")
FALSE = _words("false")
FALSE_UNLESS_DENIED = _words("false_unless_denied")
NOT = _words("not")
NOT_AFTER = _words("not_after")
LINKS = _words("links")
NOUNS = _words("nouns")
PRONOUNS = _words("pronouns")
CONNECTIVES = _words("connectives")
ADVERBS = _words("adverbs")
OTHER = _words("other")
PASSAGES = _words("passages")
REASONS = _words("reasons")
CONDITIONS = _words("conditions")
IN_PART = _words("in_part")
IN_DEGREES = _words("in_degrees")
HEDGES = _words("hedges")
CONTRASTS = _words("contrasts")
FILLERS = NOUNS | PRONOUNS | CONNECTIVES | ADVERBS | OTHER

# Languages without spaces: the verdicts, and what stands around them.
UNSPACED_TRUE = f"(?:{'|'.join(_FILE['unspaced_true'].split())})"
UNSPACED_FALSE = f"(?:{'|'.join(_FILE['unspaced_false'].split())})"
UNSPACED_BEFORE = (
    "(?:.{0,12}(?:따르면|근거하면|によると|によれば))?"
    "(?:因此|所以|结论|結論|答案|回答|判断|判斷|最终|最終|答え|判定|정답|답|결론|따라서)*(?:是|为|為|は|은|는)?"
    "(?:该|該|这个|這個|这|這|此|上述|以上|この|その|これ|それ|이것|그것|이|그|해당)?(?:条|條|句)?"
    "(?:陈述|陳述|说法|說法|声明|聲明|论断|断言|命题|命題|句子|语句|话|話|文|文章|記述|主張|発言|ステートメント|"
    "진술|주장|문장|명제|내용)?(?:是|为|為|は|은|는|이|가)?"
)
UNSPACED_AFTER = "(?:的|了|です|である|だ|입니다|이다|이에요|임)?"
# "Correct answer:" before a verdict, and marks of one that is taken back.
UNSPACED_LABEL = re.compile(
    r"^\W*(?:正解|正しい答え|正确答案|正確答案|정답|답)\s*(?:は|은|是|[:\uff1a])\s*"
)
UNSPACED_TURN = re.compile("但|不过|不過|然而|可是|ただし|しかし|けれど|하지만|그러나|다만")
UNSPACED_DENIAL = re.compile("不|错|錯|误|誤|假|ない|ません|違|間違|아니|틀|않")
