"""An engine as an lm-eval model: the same texts and likelihoods as lm-eval's own `hf`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import UserError
from harness.core.schema import Message
from harness.engines import Completion, Engine, Sampling

TEXTS = ["She has 14 plums.", "How many plums does she have now?", "buys", "She buys 7 more."]
OPTIONS = {"until": ["zz"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 20}


def request(doc_id: int, *args: Any, kind: str = "generate_until", repeats: int = 1) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(
        request_type=kind, doc={}, arguments=args, idx=0, metadata=("toy", doc_id, repeats)
    )


@pytest.fixture(scope="module")
def stock(model_folder: Path) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(model_folder), batch_size=2, device="cpu")


@pytest.fixture
def lm(engine: Any) -> Any:
    from harness.evals.lm import EngineLM

    return EngineLM(engine)


class Told(Engine):
    """An engine that answers with what it was asked, and remembers how."""

    name, model_id, model_digest, tokenizer = "told", "told", None, None

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], Sampling]] = []

    def render(self, messages: Sequence[Message]) -> str:
        return "|".join(message.content for message in messages) + ">"

    def generate(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        on_done: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        self.asked.append((list(prompts), sampling))
        return [[Completion(f"{p}{j}", "stop", 1, 2) for j in range(sampling.n)] for p in prompts]


def told() -> tuple[Any, Told]:
    from harness.evals.lm import EngineLM

    engine = Told()
    return EngineLM(engine, seed=7), engine


def test_generates_what_lm_evals_own_model_does(lm: Any, stock: Any) -> None:
    requests = [request(i, text, dict(OPTIONS)) for i, text in enumerate(TEXTS)]
    found = lm.generate_until(requests)
    assert found == stock.generate_until(requests, disable_tqdm=True)
    assert len(set(found)) > 1
    kept = [made[0] for made in lm.complete(requests, [1] * len(TEXTS))]
    assert [completion.text for completion in kept] == found
    assert all(completion.completion_tokens <= 20 for completion in kept)


def test_likelihoods_are_those_of_lm_evals_own_model(lm: Any, stock: Any) -> None:
    pairs = [("She has", " 14 plums."), ("", "plums"), ("How many ", "more?"), ("7", "7 7 7")]
    requests = [request(i, *pair, kind="loglikelihood") for i, pair in enumerate(pairs)]
    for ours, theirs in zip(
        lm.loglikelihood(requests), stock.loglikelihood(requests, disable_tqdm=True), strict=True
    ):
        assert ours[0] == pytest.approx(theirs[0], rel=1e-4)
        assert ours[1] == theirs[1]
    long = [request(0, "She has 14 plums. " * 80, kind="loglikelihood_rolling")]
    (ours,) = lm.loglikelihood_rolling(long)
    assert ours == pytest.approx(stock.loglikelihood_rolling(long, disable_tqdm=True)[0], rel=1e-4)


def test_conversations_are_rendered_as_lm_evals_own_model_does(lm: Any, stock: Any) -> None:
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    asked = [*history, {"role": "user", "content": "Why?"}]
    assert lm.apply_chat_template(asked) == stock.apply_chat_template(asked)
    opened = [*asked, {"role": "assistant", "content": "Because"}]
    assert lm.apply_chat_template(opened, add_generation_prompt=False).endswith(
        "<|user|>Why?<|end|><|assistant|>Because"
    )
    assert lm.tokenizer_name


def test_requests_are_grouped_by_their_options() -> None:
    lm, engine = told()
    short = OPTIONS | {"max_gen_toks": 5}
    found = lm.generate_until([request(0, "a", OPTIONS), request(1, "bb", short),
                               request(2, "ccc", OPTIONS)])  # fmt: skip
    assert found == ["a0", "bb0", "ccc0"]
    assert [(asked, sampling.max_tokens) for asked, sampling in engine.asked] == [
        (["ccc", "a"], 20),
        (["bb"], 5),
    ]
    assert all(sampling.seed == 7 for _, sampling in engine.asked)


def test_repeats_are_samples_of_one_prompt() -> None:
    lm, engine = told()
    repeated, other = request(0, "a", OPTIONS, repeats=3), request(1, "a", OPTIONS)
    assert lm.generate_until([repeated] * 3 + [other]) == ["a0", "a1", "a2", "a0"]
    assert [sampling.n for _, sampling in engine.asked] == [3, 1]
    assert [c.text for c in lm.complete([repeated], [3])[0]] == ["a0", "a1", "a2"]


def test_answers_reach_lm_evals_cache_as_they_come() -> None:
    lm, _ = told()
    kept: list[Any] = []

    class Hook:
        def add_partial(self, *entry: Any) -> None:
            kept.append(entry)

    lm.set_cache_hook(Hook())
    lm.generate_until([request(0, "a", OPTIONS)])
    assert kept == [("generate_until", ("a", OPTIONS), "a0")]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"until": []}, Sampling()),
        ({"until": None}, Sampling()),
        ({"until": "x"}, Sampling(stop=("x",))),
        ({"until": ["x", ""], "max_new_tokens": 3}, Sampling(stop=("x",), max_tokens=3)),
        ({"max_tokens": 9, "max_gen_toks": 4}, Sampling(max_tokens=4)),
        ({"do_sample": False, "temperature": 0.7}, Sampling()),
        ({"do_sample": True, "temperature": 0.7, "top_p": 0.9}, Sampling(0.7, 0.9)),
        ({"temperature": "0.5"}, Sampling(0.5)),
    ],
)
def test_lm_evals_options_are_a_sampling(options: dict[str, Any], expected: Sampling) -> None:
    from harness.evals.lm import to_sampling

    assert to_sampling(options, seed=0) == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [({"num_beams": 4}, "'num_beams' is not supported"), ({"top_p": "much"}, "not a number")],
)
def test_options_that_are_not_there_are_refused(options: dict[str, Any], said: str) -> None:
    from harness.evals.lm import to_sampling

    with pytest.raises(UserError, match=said):
        to_sampling(options, seed=0)


def test_an_engine_without_likelihoods_says_so() -> None:
    lm, _ = told()
    with pytest.raises(UserError, match="cannot say how likely"):
        lm.loglikelihood([request(0, "a", "b", kind="loglikelihood")])
    with pytest.raises(UserError, match="cannot say how likely"):
        lm.loglikelihood_rolling([request(0, "a", kind="loglikelihood_rolling")])
