"""Words by which a judge says that a statement is true or false, in the languages judges use.

`verdict_sentences` says how they are put together.
"""

# ruff: noqa: RUF001 (letters of other scripts are meant)

from __future__ import annotations

import re
import unicodedata

# The dot that case folding leaves of a Turkish capital I, and the choice of an emoji's form.
_INVISIBLE = dict.fromkeys((0x307, 0xFE0E, 0xFE0F))


def fold(text: str) -> str:
    """Normalise width and case, and drop invisible characters."""
    plain = unicodedata.normalize("NFKC", text).casefold().translate(_INVISIBLE)
    return "".join(c for c in plain if unicodedata.category(c) != "Cf")


def _words(text: str) -> frozenset[str]:
    return frozenset(fold(text).split())


YES = _words(
    "yes yeah yep yup ja oui sí sì sim да так tak ano igen evet ya iya có हाँ हां نعم אכן כן ναι "
    "joo kyllä da ใช่ بله"
)
NO = _words(
    "no nope nah nein nee nej nei nie non não nao nem ei ne nu нет ні не hayır hayir tidak bukan "
    "không नहीं لا לא όχι ไม่ خیر"
)
TRUE = _words(
    "true correct right accurate factual valid supported support supports backed entailed "
    "entailment "
    "affirmative istinito pareizi patiess tiesa tama totoo kweli صحیح உண்மை சரி "
    "wahr wahre richtig richtige korrekt korrekte zutreffend stimmt belegt gestützt "
    "vrai vraie exact exacte juste correcte véridique étayée soutenue "
    "verdadero verdadera cierto cierta correcto correcta verdad respaldada respaldado "
    "vero vera corretto corretta esatto esatta giusto giusta "
    "verdadeiro verdadeira certo certa correto correta verdade "
    "waar juist klopt sant sann korrekt korrekta rätt riktigt stämmer sandt rigtigt rigtig riktig "
    "totta tosi oikein prawda prawdą prawdziwe prawdziwy prawdziwa poprawne pravda pravdivé "
    "pravdivý pravdivá správně správné správne tačno točno istina "
    "верно правда правдиво истина истинно правильно верное верна истинное правдивое истинным "
    "верным "
    "вірно вірне правдиве істина вярно "
    "doğru doğrudur benar betul đúng सही सत्य सच صحيح صحيحة صح صواب נכון נכונה אמת "
    "σωστό σωστή αληθές αληθής αλήθεια adevărat adevarat adevărată corect corectă igaz helyes "
    "درست จริง ถูกต้อง ถูก সত্য সঠিক cert veritat صحيحا صحيحاً ✅ ✔ ✓ ☑"
)
# What is not verified may still be true: denied, these say nothing.
TRUE_UNLESS_DENIED = _words(
    "verified confirmed proven corroborated substantiated established agree agrees"
)
# "Not false" commits to true; so does "not untrue".
FALSE = _words("false untrue incorrect wrong")
# Denied, these say nothing: what is not contradicted may still lack support.
FALSE_UNLESS_DENIED = _words(
    "unsupported contradicted contradict contradicts refuted refute refutes disproved disproven "
    "contradiction hallucinated hallucination disagree disagrees negative neistinito nepareizi "
    "nepatiess netiesa klaidinga mali uongo பொய் தவறு "
    "debunked inaccurate invalid erroneous fabricated unfounded baseless groundless "
    "mistaken nontrue nonfactual "
    "falsch falsche unwahr unrichtig inkorrekt unzutreffend widerlegt "
    "faux fausse incorrecte inexact inexacte erroné erronée "
    "falso falsa incorrecto incorrecta erróneo errónea mentira "
    "errato errata sbagliato sbagliata scorretto scorretta inesatto "
    "incorreto incorreta errado errada "
    "onwaar onjuist fout vals falskt falsk fel felaktigt felaktig osant oriktigt forkert usandt "
    "usant feil galt ukorrekt väärin väärä epätosi "
    "fałsz falsz fałszywe fałszywy fałszywa nieprawda nieprawdą nieprawdziwe nieprawdziwy błędne "
    "niepoprawne nepravda nepravdivé nepravdivý nepravdivá špatně chybné nesprávné nesprávne lež "
    "netačno netočno neistina pogrešno lažno "
    "ложь ложно ложное ложна ложным неверно неверное неверна неправда неправильно ошибочно ошибка "
    "неверным невірно невірне неправдиве хибно хибне невярно грешно "
    "yanlış yanliş yanlıştır salah palsu sai गलत ग़लत असत्य झूठ झूठा خطأ خاطئ خاطئة كاذب باطل "
    "שקר שגוי שגויה λάθος ψευδές ψευδής λανθασμένο fals falsă incorect incorectă greșit hamis "
    "helytelen téves نادرست غلط اشتباه เท็จ ผิด মিথ্যা ভুল ❌ ✗ ✘ ❎"
)
NOT = _words(
    "not no nothing none lack lacks nicht kein keine pas non no não nao niet inte icke ikke "
    "ei nie nem nu не ni "
    "není hindi değil değildir tidak bukan không नहीं ليس ليست غير לא אינו אינה δεν nije nu "
    "ne نیست ไม่ nincs"
)
# These deny the word before them ("stimmt nicht", "doğru değil").
NOT_AFTER = _words("nicht niet inte ikke değil değildir नहीं نیست pas")
# Words that may stand between a denial and what it denies.
LINKS = _words(
    "a an the at all be been is are was actually in fact passage passages text evidence in of "
    "these given provided est es é è este está eh er är ist wird que является είναι jest to je е є"
)
# The subject, the copula and the courtesies of a verdict.
NOUNS = _words(
    "statement claim sentence assertion proposition answer verdict conclusion judgment judgement "
    "result label decision response assessment evaluation determination classification statements "
    "aussage behauptung antwort urteil ergebnis satz affirmation déclaration phrase énoncé réponse "
    "afirmación declaración enunciado respuesta oración affermazione dichiarazione frase risposta "
    "afirmação declaração resposta frase bewering uitspraak stelling antwoord påståendet svaret "
    "svar påstanden utsagnet väite lause vastaus stwierdzenie zdanie twierdzenie odpowiedź tvrzení "
    "výrok odpověď tvrdenie tvrdnja odgovor утверждение высказывание заявление ответ твердження "
    "відповідь твърдението отговор ifade iddia cevap yanıt pernyataan jawaban jawabannya câu "
    "phát biểu tuyên bố trả lời đáp án कथन उत्तर العبارة البيان الإجابة الجواب הטענה המשפט התשובה "
    "δήλωση πρόταση απάντηση afirmația afirmația propoziția răspunsul állítás válasz پاسخ گزاره"
)
PRONOUNS = _words(
    "this that it these those das dies es ce cela ça c eso esto lo ciò questo questa isso isto dat "
    "dit het det to tohle to это це това bu itu ini này điều यह هذا هذه זה זאת זו αυτό αυτή "
    "asta ez "
    "این"
)
CONNECTIVES = _words(
    "so therefore thus hence consequently accordingly overall also daher somit donc así entonces "
    "quindi portanto dus alltså derfor więc tedy таким образом итак итого następnie ultimately"
)
ADVERBS = _words(
    "clearly definitely absolutely certainly indeed completely entirely totally fully factually "
    "demonstrably simply undoubtedly obviously evidently unequivocally eindeutig völlig ganz "
    "totalmente completamente complètement tout à fait helemaal completely explicitly directly "
    "hoàn toàn sự thật đó बिल्कुल полностью совершенно final finale endgültig sorry please"
)
OTHER = _words(
    "i my we our is was are be been being a an the fact as to by in on of for from with according "
    "based "
    "given provided above passage passages text context information evidence article source "
    "sources "
    "encyclopedia document documents wikipedia reference material do does did has have must "
    "think believe confident conclude conclusion explanation reason reasoning rationale "
    "justification note "
    "here there step "
    "die der diese dieser dieses ist sind lautet meine la le l les cette est ma n selon el "
    "los esta está por pasajes par wird durch den passagen "
    "este es mi ser il lo gli è e sono mia a o essa esta é minha de deze is mijn mitt är er "
    "on jest "
    "je moje můj є е данное данный мой наш o bu adalah ini là है होता है यह هي هو هذه الـ היא הוא "
    "η το τη είναι este este a az ez این است jawab s m"
)
PASSAGES = _words(
    "passage passages text context information evidence article source sources encyclopedia "
    "document documents wikipedia material"
)
FILLERS = NOUNS | PRONOUNS | CONNECTIVES | ADVERBS | OTHER

# After a verdict: what begins a reason, and what takes the verdict back in part.
REASONS = _words(
    "because since as per according based given due see by from weil da denn laut "
    "gemäß parce car puisque selon porque según perché secondo pois segundo omdat want volgens "
    "eftersom för fordi потому так поскольку согласно ponieważ gdyż protože çünkü karena"
)
CONDITIONS = _words(
    "if unless only when whenever assuming until except depending depends insofar "
    "apart partly partially mostly largely mainly generally somewhat technically sometimes wenn "
    "falls nur teilweise si seulement partiellement solo sólo parcialmente se solo parzialmente "
    "apenas als tenzij deels om endast delvis если только частично jeśli częściowo eğer kısmen"
)
IN_PART = _words(
    "part parts partly half some most extent sense senses respects ways cases first second "
    "long far "
    "except exception exceptions only if unless caveat caveats qualification qualifications"
)
IN_DEGREES = _words(
    "partially partly mostly half technically largely somewhat teilweise partiellement "
    "parcialmente "
    "parzialmente deels delvis частично częściowo kısmen"
)
HEDGES = _words(
    "may might could would should seem seems seemed appear appears appeared possibly perhaps maybe "
    "probably likely unlikely presumably supposedly initially first glance thought sure certain "
    "unsure unclear uncertain whether either neither nor both somewhat mostly partly partially "
    "largely generally technically almost nearly half cannot can unable impossible unknown "
    "undetermined unverifiable unverified inconclusive ambiguous depends if unless only when "
    "assuming doubt vielleicht wahrscheinlich teilweise möglicherweise peut probablement "
    "partiellement quizás quizá probablemente parcialmente forse parzialmente talvez misschien "
    "deels kanske delvis возможно частично вероятно może częściowo belki kısmen"
)
CONTRASTS = _words(
    "but however although though yet except whereas while nevertheless nonetheless still actually "
    "wait correction aber jedoch allerdings mais cependant toutefois pero sin embargo aunque ma "
    "però tuttavia mas porém contudo maar echter men dock но однако ale jednak ama fakat"
)

# Languages without spaces: what stands around a verdict, and the verdicts, whole sentences only.
_CHINESE_TRUE = (
    "正确|正確|对|對|对的|對的|是|是的|真|真的|真实|真實|属实|屬實|没错|沒錯|成立|"
    "得到支持|有依据|正确的|正確的|真实的|真實的"
)
_CHINESE_FALSE = (
    "错误|錯誤|错|錯|错的|錯的|错误的|錯誤的|假|假的|虚假|虛假|虚假的|虛假的|否|不|不是|不对|不對|不正确|"
    "不正確|不属实|不屬實|不真实|不真實|不成立|不是真的|并非真实|不是真实的|没有得到支持|未得到支持|不准确"
)
_JAPANESE_TRUE = (
    "はい|正しい|正しいです|真|真実|本当|事実|正解|正|真です|真実です|事実です|"
    "本当です|正解です|支持されています"
)
_JAPANESE_FALSE = (
    "いいえ|誤り|誤りです|間違い|間違いです|間違っている|間違っています|偽|偽です|正しくない|正しくないです|"
    "正しくありません|虚偽|虚偽です|嘘|嘘です|不正解|不正解です|誤|誤っている|誤っています|事実ではない|事実ではありません|"
    "真実ではない|真実ではありません|本当ではありません|違う|違います|支持されていません"
)
_KOREAN_TRUE = "참|예|네|사실|맞습니다|맞다|맞음|맞아요|옳다|옳습니다|진실|정답"
_KOREAN_FALSE = (
    "거짓|아니요|아니오|아닙니다|틀렸습니다|틀림|틀리다|틀린|오답|사실이아닙니다|사실이아니다|사실아님|"
    "참이아닙니다|옳지않습니다|맞지않습니다"
)
UNSPACED_TRUE = f"(?:{_CHINESE_TRUE}|{_JAPANESE_TRUE}|{_KOREAN_TRUE})"
UNSPACED_FALSE = f"(?:{_CHINESE_FALSE}|{_JAPANESE_FALSE}|{_KOREAN_FALSE})"
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
