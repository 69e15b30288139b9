"""Retrievers and verifiers: which passage is chosen, and what counts as supported."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import fit_lexical
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.core.schema import Item, Reply, Sample
from tasks.factscore.decomposers import Clauses
from tasks.factscore.knowledge import Bm25, Dense
from tasks.factscore.lexical import NAMES, Lexical, features, nearest, says, shipped
from tasks.factscore.pipeline import Claim, Pipeline
from tasks.factscore.text import words
from tasks.factscore.verifiers import Nli, prompt, published_verdict

PAGE = (
    "Ada Lund (born 4 May 1931) was a Swedish painter. She studied in Uppsala.",
    "In 1962 she won the Prince Eugen Medal for her harbour paintings.",
    "She married the sculptor Nils Berg and moved to Visby, where she died in 1999.",
)


def claim(text: str, passages: tuple[str, ...] = PAGE, entity: str = "Ada Lund") -> Claim:
    return Claim(entity, text, passages)


# Retrieval ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "best"),
    [("She won a medal.", 1), ("Married to a sculptor", 2), ("Student in Uppsala", 0)],
)
def test_bm25_finds_the_passage_by_its_words_and_their_forms(query: str, best: int) -> None:
    assert Bm25(1).retrieve(PAGE, query) == (PAGE[best],)


def test_bm25_gives_k_passages_of_the_page_the_best_first() -> None:
    found = Bm25(2).retrieve(PAGE, "Ada Lund won the Prince Eugen Medal.")
    assert found[0] == PAGE[1]
    assert len(found) == 2
    assert Bm25(5).retrieve(PAGE, "nothing of this kind") == PAGE
    assert Bm25(5).retrieve(PAGE, "") == PAGE
    assert Bm25(5).retrieve((), "Ada") == ()
    assert Bm25(5).retrieve(("...", "the"), "Ada") == ("...", "the")


def test_bm25_is_the_formula(shared_data: Path) -> None:
    """Okapi BM25 as Lucene has it: k1 1.5, b .75 (Robertson & Zaragoza 2009, section 3)."""
    docs = [["a", "b", "b"], ["a", "c"], ["d", "d", "d", "d"]]
    page = tuple(" ".join(f"word{w}" for w in doc) for doc in docs)

    def score(doc: list[str], query: list[str]) -> float:
        total = 0.0
        for term in query:
            n = sum(term in other for other in docs)
            f = doc.count(term)
            idf = math.log(1 + (len(docs) - n + 0.5) / (n + 0.5))
            total += idf * f / (f + 1.5 * (0.25 + 0.75 * len(doc) / 3))
        return total

    for query in (["a"], ["b", "c"], ["a", "d"], ["b"]):
        order = sorted(range(3), key=lambda i: -score(docs[i], query))
        said = " ".join(f"word{w}" for w in query)
        assert Bm25(3).retrieve(page, said) == tuple(page[i] for i in order)


def test_dense_retrieval_ranks_by_inner_product_and_embeds_a_page_once() -> None:
    seen: list[tuple[str, ...]] = []

    def encode(texts: Any) -> Any:
        seen.append(tuple(texts))
        return np.array([[text.count("a"), text.count("b")] for text in texts], dtype=float)

    page = ("b", "aa", "aab", "a")
    dense = Dense("letters", 2, encode)
    assert dense.retrieve(page, "a") == ("aa", "aab")
    assert dense.retrieve(page, "b") == ("b", "aab")
    assert dense.retrieve(page, "b") == ("b", "aab")
    assert seen == [page, ("a",), ("b",)]
    assert dense.name == "dense letters k2"
    assert dense.retrieve((), "a") == ()


# A judge's verdict --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "supported"),
    [
        (Reply(text="True"), True),
        (Reply(text="**False**."), False),
        (Reply(text="It might seem true, but it is false."), False),
        (Reply(text="Not false: TRUE"), True),
        (Reply(text="The passages do not say so."), False),
        (Reply(text="There is no information on that"), False),
        (Reply(text="Yes, they say so."), True),
        (Reply(text="Untrue? Truly, nothing."), True),
        (Reply(text="False", logprobs={"True": -0.1, "False": -2.0}), True),
        (Reply(text="True", logprobs={"True": -3.0, "False": -0.2}), False),
        (Reply(text="True", logprobs={"False": -0.2}), False),
        (Reply(text="False.", logprobs={}), False),
        (Reply(text="True, because the second", failure="cut short"), True),
        (Reply(text="Let us see whether it is true", failure="cut short"), None),
        (Reply(failure="timed out"), None),
        (Reply(text="  "), None),
    ],
)
def test_the_published_rule_takes_the_later_word(reply: Reply, supported: bool | None) -> None:
    found = published_verdict(reply)
    assert found.supported is supported
    assert bool(found.failure) == (supported is None)


def test_the_prompt_shows_passages_then_the_statement() -> None:
    shown = prompt(claim("She painted."))
    places = [shown.index(part) for part in (*reversed(PAGE), "Statement: She painted.")]
    assert places == sorted(places)
    assert len(prompt(claim("x" * 10**6))) < 5_000


# The verifier without a model ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fact", "supported"),
    [
        ("Ada Lund was a painter.", True),
        ("She was Swedish.", True),
        ("She was born in 1931.", True),
        ("She married Nils Berg.", True),
        ("She won the Prince Eugen Medal.", True),
        ("She was born in 1945.", False),
        ("She won the Nobel Prize.", False),
        ("She studied in Heidelberg.", False),
        ("Copenhagen is the capital of Denmark.", False),
    ],
)
def test_plain_facts_are_told_apart(fact: str, supported: bool) -> None:
    ((finding,),) = Lexical().verify([[claim(fact)]], None)
    assert finding.supported is supported


def test_evidence_is_the_sentence_that_comes_nearest() -> None:
    assert nearest(claim("She was a student in Uppsala.")) == "She studied in Uppsala."
    assert nearest(claim("Zebras graze.")) == ""
    assert nearest(claim("She was.", ())) == ""


@given(st.lists(st.text(max_size=40), max_size=4), st.lists(st.text(max_size=60), max_size=3))
def test_any_text_has_finite_features(facts: list[str], passages: list[str]) -> None:
    found = features([claim(fact, tuple(passages)) for fact in facts])
    assert found.shape == (len(facts), len(NAMES))
    assert np.isfinite(found).all()
    assert len(Lexical().verify([[claim(f, tuple(passages)) for f in facts], []], None)[0]) == len(
        facts
    )


def test_findings_do_not_depend_on_other_biographies_or_the_order_of_passages() -> None:
    one = [claim("She was a painter."), claim("She won the Nobel Prize.")]
    other = [claim("She played for Brondby.")]
    turned = [claim(c.text, PAGE[::-1]) for c in one]
    alone, together = Lexical().verify([one], None), Lexical().verify([other, one], None)
    assert alone[0] == together[1] == Lexical().verify([turned], None)[0]


def test_words_match_without_case_accents_possession_and_endings() -> None:
    found = [w.stem for w in words("PAINTING Painter's painted Átomo 1,200")]
    assert found == ["paint", "paint", "paint", "atomo", "1200"]


def test_the_shipped_model_says_what_it_was_fitted_on() -> None:
    model = shipped()
    assert set(model.weights) == set(NAMES)
    for part in ("5427 human-labelled facts of ChatGPT's biographies of 157", "in-sample"):
        assert part in model.fitted_on


@pytest.mark.slow
def test_on_unseen_entities_it_beats_the_lexical_floor(shared_data: Path, tmp_path: Path) -> None:
    """Published F1 on not-supported: retrieval + Inst-LLaMA 61.9, + NPM 70.5, + ChatGPT 80.2."""
    folder = shared_data / "factscore" / "knowledge"
    facts = folder / "chatgpt_facts_with_bm25_passage_ids.jsonl"
    pages = folder / "kb_wikipedia_157.jsonl"
    data = fit_lexical.read_labelled(facts, pages)
    _, found = fit_lexical.out_of_fold(data)
    assert len(found) == 5427
    # The floor has .701 at one threshold and .740 at another; this is one threshold for both.
    assert fit_lexical.accuracy(data.supported, found) > 0.78
    assert fit_lexical.f1_not_supported(data.supported, found) > 0.735
    assert found.mean() == pytest.approx(data.supported.mean(), abs=0.02)
    again = fit_lexical.fit(data, shipped().fitted_on)
    assert again.intercept == pytest.approx(shipped().intercept, abs=1e-3)
    for name, weight in again.weights.items():
        assert weight == pytest.approx(shipped().weights[name], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["ChatGPT", "InstructGPT"])
def test_without_any_model_scores_follow_those_of_people(shared_data: Path, model: str) -> None:
    """Clauses, BM25 and the lexical verifier, fitted without the entities that are scored."""
    folder = shared_data / "factscore"
    source = folder / "knowledge" / "kb_wikipedia_157.jsonl"
    data = fit_lexical.read_labelled(
        folder / "knowledge" / "chatgpt_facts_with_bm25_passage_ids.jsonl", source
    )
    pages = fit_lexical.read_pages(source)
    fold = {entity: number % 5 for number, entity in enumerate(pages)}
    people, ours = [], []
    lines = (folder / "labeled" / f"{model}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["annotations"] and row["topic"] in pages]
    for held_out in range(5):
        seen = np.array([fold[entity] != held_out for entity in data.entity])
        pipeline = Pipeline(
            lambda items: [pages[item.reference["entity"]] for item in items],
            Clauses(),
            Bm25(5),
            Lexical(fit_lexical.fit(data.only(seen), "a fold")),
            gamma=10,
            at_k=30,
            rules="content",
        )
        scored = [row for row in rows if fold[row["topic"]] == held_out]
        for row in scored:
            item = Item(
                task="factscore",
                split="test",
                index=0,
                prompt="",
                reference={"entity": row["topic"]},
            )
            sample = Sample(
                task="factscore", item=item.digest, index=0, prompt="", response=row["output"]
            )
            (score,) = pipeline.score([(item, sample)])
            ours.append(score.values["precision"])
            labels = [
                fact.get("label") == "S"
                for part in row["annotations"]
                for fact in part[f"{'human' if part['is-relevant'] else 'model'}-atomic-facts"]
            ]
            people.append(sum(labels) / len(labels) if labels else 0.0)
    assert len(ours) > 150
    assert np.corrcoef(people, ours)[0, 1] > 0.83
    assert np.mean(ours) == pytest.approx(np.mean(people), abs=0.05)


def test_a_model_finds_again_what_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, len(NAMES)))
    truth = np.zeros(len(NAMES))
    truth[:3] = (2.0, -1.0, 0.5)
    supported = rng.random(4000) < 1 / (1 + np.exp(-(x @ truth + 0.3)))
    data = fit_lexical.Labelled(x, supported, np.array([f"e{i % 50}" for i in range(4000)]))
    model = fit_lexical.fit(data, "made up")
    # The penalty shrinks them all alike.
    first, second, third = (model.weights[name] for name in NAMES[:3])
    assert (second / first, third / first) == pytest.approx((-0.5, 0.25), abs=0.05)
    _, found = fit_lexical.out_of_fold(data)
    best = fit_lexical.accuracy(supported, x @ truth + 0.3 > 0)
    assert fit_lexical.accuracy(supported, found) == pytest.approx(best, abs=0.02)


def test_the_interval_draws_entities_whole() -> None:
    """All facts of an entity alike: the interval is that of 40 coins, not of 4,000."""
    supported = np.ones(4000, dtype=bool)
    entity = np.repeat([f"e{i}" for i in range(40)], 100)
    found = np.repeat(np.arange(40) % 2 == 0, 100)
    low, high = fit_lexical.interval(fit_lexical.accuracy, supported, found, entity)
    half = 1.96 * math.sqrt(0.25 / 40)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.03)


# Natural language inference -----------------------------------------------------------------------


FACTS = [
    "She studied in Uppsala.",
    "Nils Berg died.",
    "In 1962 she painted.",
    "medal " * 200,
    "the sculptor",
    "born in May",
]


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny cross-encoder with random weights, whose entailment is label 2."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("nli")
    said = dict.fromkeys(re.findall(r"\w+", " ".join((*PAGE, *FACTS))))
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *said]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(known),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        initializer_range=2.0,
        id2label={0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"},
        label2id={"CONTRADICTION": 0, "NEUTRAL": 1, "ENTAILMENT": 2},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_nli_takes_the_passage_that_entails_most(cross_encoder: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(cross_encoder)
    model = AutoModelForSequenceClassification.from_pretrained(cross_encoder).eval()

    def entailed(passage: str, fact: str) -> float:
        pair = tokenizer(
            f"Ada Lund: {passage}",
            fact,
            truncation="longest_first",
            max_length=64,
            return_tensors="pt",
        )
        with torch.inference_mode():
            return float(model(**pair).logits.softmax(-1)[0, 2])

    (found,) = Nli(str(cross_encoder)).verify([[claim(fact) for fact in FACTS]], None)
    expected = [max(entailed(passage, fact) for passage in PAGE) >= 0.5 for fact in FACTS]
    assert [finding.supported for finding in found] == expected
    assert len(set(expected)) == 2


def test_nli_reads_which_label_is_entailment(cross_encoder: Path, tmp_path: Path) -> None:
    def relabelled(*labels: str) -> str:
        folder = tmp_path / "-".join(labels)
        folder.mkdir()
        for file in cross_encoder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        config = json.loads((folder / "config.json").read_text())
        config["id2label"] = dict(enumerate(labels))
        config["label2id"] = {label: i for i, label in enumerate(labels)}
        (folder / "config.json").write_text(json.dumps(config))
        return str(folder)

    claims = [[claim(fact) for fact in FACTS]]
    last = Nli(relabelled("contradiction", "neutral", "entailment"))
    first = Nli(relabelled("entailment", "neutral", "contradiction"))
    assert last.verify(claims, None) == Nli(str(cross_encoder)).verify(claims, None)
    assert first.verify(claims, None) != last.verify(claims, None)
    assert first.name != last.name
    with pytest.raises(UserError, match=r"none of its labels \(good, bad\) is 'entailment'"):
        Nli(relabelled("good", "bad"))


def test_nli_without_passages_or_claims_supports_nothing(cross_encoder: Path) -> None:
    verifier = Nli(str(cross_encoder))
    assert verifier.verify([], None) == []
    (((finding,)), none) = verifier.verify([[claim("She sang.", ())], []], None)
    assert (finding.supported, none) == (False, [])


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        Nli(str(tmp_path))


def test_a_model_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("no-such-org/no-such-model@abc", "not a name!"):
        with pytest.raises(UserError, match=f"There is no model {name}"):
            Nli(name)


def test_what_a_page_says_word_for_word_is_supported_whatever_its_company() -> None:
    page = ("Ada Vale was born in Oster. She never won the Amber Prize.",)
    company = [
        Claim("Ada Vale", f"She discovered planet number {n} in Paris.", page) for n in range(9)
    ]
    told = [
        Claim("Ada Vale", "Ada Vale was born in Oster.", page),
        Claim("Ada Vale", "Ada was born in Oster.", page),
        Claim("Ada Vale", "She won the Amber Prize.", page),
    ]
    (found,) = Lexical().verify([told + company], None)
    assert [finding.supported for finding in found[:2]] == [True, True]
    assert not any(finding.supported for finding in found[3:])
    assert not says(told[2])
    assert not says(Claim("Ada Vale", "Ada Vale.", page))
