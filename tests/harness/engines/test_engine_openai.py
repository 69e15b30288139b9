"""A server as an engine: against one that misbehaves on demand, and against real ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.faulty import Act, Asked, FaultyServer, Script, completion, echo
from helpers.serving import transformers_serve

import tasks as benchmarks
from harness.core.errors import UserError
from harness.core.schema import Message
from harness.engines import Sampling
from harness.engines.open import EngineLoader, EngineSpec, open_engine
from harness.engines.openai import OpenAIEngine
from harness.evals.evaluate import EvalOptions, evaluate
from harness.serving import server as serving
from harness.serving.settings import ServerSettings

WARM = Sampling(temperature=1.0, top_p=0.9, max_tokens=24, n=3, seed=3)
GREEDY = Sampling(max_tokens=24)
KEY = "sk-proj-Zebra/42+Quagga=="


@pytest.fixture
def serve() -> Iterator[Callable[..., FaultyServer]]:
    with ExitStack() as stack:
        yield lambda script=echo: stack.enter_context(FaultyServer(script).running())


def engine_of(server: FaultyServer, *, tokenizer: Path | None = None, **options: Any) -> Any:
    given = {"model": "m", "backoff": 0.01, "max_attempts": 3, "timeout": 5.0}
    settings = ServerSettings(base_url=server.base_url, **(given | options))
    return OpenAIEngine(settings, tokenizer=tokenizer, key=settings.key())


def refusing(*names: str) -> Script:
    said = json.dumps({"error": {"message": f"unknown: {names}"}}).encode()

    def script(number: int, asked: Asked) -> Act:
        if set(names) & asked.body.keys():
            return Act(status=400, body=said)
        return echo(number, asked)

    return script


# What is asked ----------------------------------------------------------------------------------


def test_every_sample_is_a_request_with_a_seed_of_its_own(serve: Any) -> None:
    server = serve()
    done: list[int] = []
    found = engine_of(server).generate(["a", "b"], WARM, done.append)
    assert [[c.text for c in row] for row in found] == [["reply to a"] * 3, ["reply to b"] * 3]
    assert {(c.prompt_tokens, c.completion_tokens) for row in found for c in row} == {(10, 5)}
    assert done == [1] * 6
    seeds = {asked.body["seed"] for asked in server.asked}
    assert len(seeds) == 6
    assert {asked.path for asked in server.asked} == {"/v1/chat/completions"}
    one = next(asked.body for asked in server.asked if asked.prompt == "a")
    assert one | {"seed": 0} == {
        "model": "m", "messages": [{"role": "user", "content": "a"}], "max_tokens": 24,
        "temperature": 1.0, "top_p": 0.9, "seed": 0,
    }  # fmt: skip
    again = serve()
    engine_of(again).generate(["b", "c", "a"], replace(WARM, n=2))
    of_a = {asked.body["seed"] for asked in server.asked if asked.prompt == "a"}
    assert {asked.body["seed"] for asked in again.asked if asked.prompt == "a"} < of_a


def test_greedy_samples_of_a_prompt_are_one_request(serve: Any) -> None:
    server = serve()
    (row,) = engine_of(server).generate(["a"], replace(GREEDY, n=4))
    assert len(row) == 4 and len(server.asked) == 1
    assert "seed" not in server.asked[0].body


def test_no_more_requests_are_under_way_than_allowed(serve: Any) -> None:
    server = serve(lambda n, asked: replace(echo(n, asked), delay=0.02))
    engine_of(server, max_concurrency=3).generate([str(i) for i in range(20)], GREEDY)
    assert 1 < server.most_at_once <= 3


def test_without_a_tokenizer_a_conversation_is_one_users_turn(serve: Any) -> None:
    engine = engine_of(serve())
    told = [Message(role="system", content="Be brief."), Message(role="user", content="Why?")]
    assert engine.render(told) == "Be brief.\n\nWhy?"


def test_with_a_tokenizer_the_rendered_prompt_is_continued(serve: Any, model_folder: Path) -> None:
    text = json.dumps({"choices": [{"text": "so", "finish_reason": "length"}]}).encode()
    server = serve(lambda n, asked: Act(body=text))
    engine = engine_of(server, tokenizer=model_folder)
    prompt = engine.render([Message(role="user", content="Why?")])
    ((made,),) = engine.generate([prompt], GREEDY)
    assert server.asked[0].path == "/v1/completions"
    assert server.asked[0].body["prompt"] == "<|user|>Why?<|end|><|assistant|>"
    assert (made.text, made.finish_reason, made.completion_tokens) == ("so", "length", None)


def test_weights_are_known_by_what_the_user_calls_them_or_not(serve: Any) -> None:
    server = serve()
    assert engine_of(server).model_digest is None
    dated = engine_of(server, revision="2026-11").model_digest
    assert dated == engine_of(serve(), revision="2026-11").model_digest
    assert dated != engine_of(server, revision="2026-12").model_digest


# What a server does not take --------------------------------------------------------------------


def test_what_is_refused_is_dropped_once_and_said(serve: Any, caplog: Any) -> None:
    server = serve(refusing("seed", "max_tokens", "stop"))
    engine = engine_of(server)
    found = engine.generate([f"p{i}" for i in range(5)], replace(WARM, stop=(" to",)))
    assert {c.text for row in found for c in row} == {"reply"}
    assert len(server.asked) == 15 + 7  # every smaller choice is tried first, by the first request
    last = server.asked[-1].body
    assert last["max_completion_tokens"] == 24 and not {"seed", "stop"} & last.keys()
    assert "a seed" in engine.description and "stop strings" in engine.description
    assert len(caplog.records) == 3


def test_a_refused_temperature_is_an_error_that_says_so(serve: Any) -> None:
    with pytest.raises(UserError, match=r"prompt 0 of 1: the server refuses the call \(400: unkn"):
        engine_of(serve(refusing("temperature"))).generate(["p"], GREEDY)


def test_stop_strings_cut_whatever_the_server_makes_of_them(serve: Any) -> None:
    server = serve(lambda n, asked: Act(body=completion("one two three", finish="length")))
    ((made,),) = engine_of(server).generate(["p"], replace(GREEDY, stop=("zz", " tw")))
    assert (made.text, made.finish_reason) == ("one", "stop")
    assert server.asked[0].body["stop"] == ["zz", " tw"]


# Faults -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [
        Act(status=429),
        Act(status=500),
        Act(body=b"<html>busy</html>"),
        Act(body=b'{"choices": [{"message": 3}]}'),
        Act(body=completion(["parts"])),
        Act(body=completion("x"), cut=True),
        Act(drop=True),
        Act(delay=3600),
    ],
    ids=["429", "500", "html", "no message", "parts", "cut", "reset", "hang"],
)
def test_what_may_pass_is_tried_again(serve: Any, act: Act) -> None:
    server = serve(lambda n, asked: act if n in (1, 2) else echo(n, asked))
    found = engine_of(server, max_concurrency=1, timeout=0.3).generate(["a", "b", "c"], GREEDY)
    assert [row[0].text for row in found] == ["reply to a", "reply to b", "reply to c"]
    assert len(server.asked) == 5


def test_an_answer_that_cannot_be_had_is_no_empty_one(serve: Any) -> None:
    server = serve(lambda n, asked: Act(status=500) if asked.prompt == "b" else echo(n, asked))
    found = engine_of(server).generate(["a", "b", "c"], GREEDY)
    assert [row[0].text for row in found] == ["reply to a", "", "reply to c"]
    assert [row[0].unanswered for row in found] == [
        "", "the server answered 500; given up after 3", ""
    ]  # fmt: skip
    assert found[1][0].finish_reason is None


@pytest.mark.parametrize(
    ("act", "what"),
    [
        (Act(status=401), "wants another key .401.: name its variable in api_key_env"),
        (Act(status=404), "not the model 'm' .404.. Check base_url"),
        (Act(status=301, headers={"Location": "http://other/"}), "redirects to another address"),
        (Act(status=400, body=b'{"detail": "too long"}'), "refuses the call .400: too long"),
        (Act(body=completion("x", finish="content_filter")), "content filter"),
    ],
)
def test_what_is_wrong_is_said(serve: Any, act: Act, what: str) -> None:
    with pytest.raises(UserError, match=what):
        engine_of(serve(lambda n, asked: act)).generate(["p"], GREEDY)


# Prompts that a server does not answer ----------------------------------------------------------


def error(message: str, **more: Any) -> bytes:
    return json.dumps({"error": {"message": message} | more}).encode()


REFUSALS = {
    "filter as 400": (Act(status=400, body=error("no", code="content_filter")), "400: no"),
    "filter at the end": (Act(body=completion("so", finish="content_filter")), "content filter"),
    "too long": (Act(status=400, body=error("at most 9 tokens", code="x")), "400: at most 9"),
    "too large": (Act(status=413), "refuses the call .413"),
    "unprocessable": (Act(status=422, body=b'{"detail": "bad input"}'), "422: bad input"),
    "moderated": (
        Act(status=403, body=error("flagged", metadata={"flagged_input": "p"})),
        "403: flagged",
    ),
    "reasoning alone": (
        Act(body=completion(None, message={"content": None, "reasoning_content": "Hm."})),
        "reasoning alone",
    ),
    "a tool": (
        Act(body=completion(None, message={"content": None, "tool_calls": [{"id": "1"}]})),
        "calls a tool",
    ),
    "a crash": (Act(status=500, body=error("context shift")), "500: context shift; given up"),
}


def refuses(where: str, act: Act) -> Script:
    return lambda number, asked: act if where in asked.prompt else echo(number, asked)


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_prompt_that_is_not_answered_says_why_and_the_rest_is_kept(
    serve: Any, kind: str, place: str
) -> None:
    act, why = REFUSALS[kind]
    prompts = [f"p{i}" for i in range(6)]
    prompts.insert(0 if place == "first" else 6, "bad")
    done: list[int] = []
    found = engine_of(serve(refuses("bad", act))).generate(prompts, WARM, done.append)
    assert sum(done) == 21
    for prompt, row in zip(prompts, found, strict=True):
        for made in row:
            if prompt == "bad":
                assert re.search(why, made.unanswered) and made.text == ""
            else:
                assert made.text == f"reply to {prompt}" and not made.unanswered


def test_an_item_that_is_not_answered_is_unscored_and_its_score_is_not_zero(
    serve: Any, tmp_path: Path
) -> None:
    from harness.evals import evaluation
    from harness.evals.score import score as score_saved

    (item, *_) = benchmarks.load("mini_gsm8k").items("gate")[2:]
    engine = engine_of(serve(refuses(item.prompt, REFUSALS["filter as 400"][0])), revision="1")
    options = EvalOptions(split="gate", limit=8)
    scored = evaluate(engine, ["mini_gsm8k"], options, out=tmp_path)["mini_gsm8k"]
    assert [bool(score.values) for score in scored.scores] == [i != 2 for i in range(8)]
    assert set(scored.scores[2].unscored) == {
        metric.name for metric in benchmarks.load("mini_gsm8k").metrics
    }
    assert "content" not in scored.scores[2].unscored["accuracy"]  # the server's words, no code
    assert "refuses the call (400: no)" in scored.scores[2].unscored["accuracy"]
    assert scored.evaluation.metrics["accuracy"].unscored == 1
    assert scored.evaluation.metrics["accuracy"].n == 7
    kept = (tmp_path / "mini_gsm8k" / "samples.jsonl").read_text().splitlines()
    assert ["unanswered" in json.loads(line) for line in kept] == [i == 2 for i in range(8)]
    assert evaluation.load(tmp_path)["mini_gsm8k"] == scored
    again = score_saved("mini_gsm8k", tmp_path / "mini_gsm8k")
    assert again.scores == scored.scores


def test_too_many_prompts_without_an_answer_end_the_run_and_what_came_is_kept(
    serve: Any, tmp_path: Path
) -> None:
    items = benchmarks.load("mini_gsm8k").items("gate")[:12]
    refused = {item.prompt for item in items[:4]}
    act = REFUSALS["filter as 400"][0]
    server = serve(lambda n, asked: act if asked.prompt in refused else echo(n, asked))
    options: dict[str, Any] = {"split": "gate", "limit": 12}

    def engine(share: float) -> OpenAIEngine:
        settings = engine_of(server, revision="1", max_concurrency=1)._settings
        return OpenAIEngine(settings, max_unanswered=share)

    with pytest.raises(UserError, match=r"left 3 of 12 responses unanswered.*20%.*400: no"):
        evaluate(engine(0.2), ["mini_gsm8k"], EvalOptions(**options), out=tmp_path)
    answered = {asked.prompt for asked in server.asked} - refused
    server.asked.clear()
    found = evaluate(engine(0.5), ["mini_gsm8k"], EvalOptions(**options), out=tmp_path)[
        "mini_gsm8k"
    ]
    assert sum(bool(sample.unanswered) for sample in found.samples) == 4
    assert answered and not answered & {asked.prompt for asked in server.asked}


def test_a_server_that_refuses_everything_is_asked_a_few_times(serve: Any) -> None:
    server = serve(lambda n, asked: REFUSALS["unprocessable"][0])
    with pytest.raises(UserError, match=r"none of the first 20 of 1000 prompts.*bad input"):
        engine_of(server, max_concurrency=4).generate([f"p{i}" for i in range(1000)], GREEDY)
    assert len(server.asked) < 100


@pytest.mark.parametrize(
    ("act", "what"),
    [
        (Act(status=403, body=error("no access")), "does not let this key ask.*no access"),
        (Act(status=402, body=error("no credit")), "does not let this key ask.*no credit"),
        (Act(status=400, body=error("x", code="model_not_found")), "any call to the model 'm'"),
        (Act(status=400, body=error("The model `m` does not exist")), "any call to the model 'm'"),
        (Act(status=400, body=error("API key not valid. Pass one.")), "any call to the model 'm'"),
    ],
)
def test_what_every_prompt_would_meet_is_said_at_once(serve: Any, act: Act, what: str) -> None:
    server = serve(lambda n, asked: act)
    with pytest.raises(UserError, match=what):
        engine_of(server).generate([f"p{i}" for i in range(50)], GREEDY)
    assert len(server.asked) == 1


def test_a_server_that_goes_away_midway_ends_the_run(serve: Any) -> None:
    def script(number: int, asked: Asked) -> Act:
        return echo(number, asked) if number < 30 else Act(status=500)

    with pytest.raises(UserError, match=r"stopped answering: .*in a row"):
        engine_of(serve(script), max_attempts=1).generate([f"p{i}" for i in range(200)], GREEDY)


def test_a_list_of_parts_is_read_and_thoughts_among_them_are_no_answer(serve: Any) -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
        {"type": "text", "text": "It is "},
        {"type": "image_url", "image_url": {"url": "http://x"}},
        {"type": "output_text", "text": "7."},
    ]
    ((made,),) = engine_of(serve(lambda n, asked: Act(body=completion(parts)))).generate(
        ["p"], GREEDY
    )
    assert (made.text, made.unanswered) == ("It is 7.", "")


def test_a_model_that_declines_in_the_field_for_it_has_answered(serve: Any) -> None:
    declined = Act(body=completion(None, message={"content": None, "refusal": "I cannot."}))
    ((made,),) = engine_of(serve(lambda n, asked: declined)).generate(["p"], GREEDY)
    assert (made.text, made.unanswered) == ("I cannot.", "")


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    server = FaultyServer()
    server._server.server_close()
    with pytest.raises(UserError, match="cannot be reached"):
        engine_of(server).generate(["p"] * 100, GREEDY)


def test_a_reply_of_endless_length_is_cut_off(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_BODY_BYTES", 50_000)
    server = serve(lambda n, asked: Act(body=completion("x" * 60_000)))
    with pytest.raises(UserError, match="longer than 50,000 bytes"):
        engine_of(server).generate(["p"], GREEDY)


def test_the_key_is_sent_and_shown_nowhere(serve: Any, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setenv("SERVER_KEY", KEY)

    def spill(number: int, asked: Asked) -> Act:
        said = asked.headers["Authorization"]
        if asked.prompt == "bad":
            return Act(status=403, body=json.dumps({"error": {"message": said}}).encode())
        return Act(body=completion(said))

    engine = engine_of(serve(spill), api_key_env="SERVER_KEY")
    ((made,),) = engine.generate(["p"], GREEDY)
    assert made.text == "Bearer [key]"
    with pytest.raises(UserError) as caught:
        engine.generate(["bad"], GREEDY)
    assert "Zebra" not in f"{caught.value}{caplog.text}{engine.description}"
    monkeypatch.setenv("SERVER_KEY", "")
    with pytest.raises(UserError, match="SERVER_KEY is empty"):
        engine_of(serve(), api_key_env="SERVER_KEY")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "name its address as base_url"),
        ({"base_url": "localhost"}, "starts with http"),
        ({"base_url": "http://h/v1", "api_key_env": "sk-Zebra"}, "not the key"),
        ({"base_url": "http://h/v1", "device": "cpu"}, "does not take device"),
    ],
)
def test_options_that_make_no_server_are_refused(options: Any, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        open_engine(EngineSpec("m", kind="openai", **options))
    assert "Zebra" not in str(caught.value)


def test_a_local_engine_has_no_address(model_folder: Path) -> None:
    with pytest.raises(UserError, match="The engine hf does not take base_url"):
        open_engine(EngineSpec(str(model_folder), base_url="http://h/v1"))


def test_an_engine_without_weights_is_not_loaded_under_another_kind(model_folder: Path) -> None:
    with pytest.raises(UserError, match="The engine openai does not load weights"):
        EngineLoader(EngineSpec(kind="openai")).load(EngineSpec(str(model_folder), kind="openai"))


# Likelihoods ------------------------------------------------------------------------------------


def scored(asked: Asked, **changes: Any) -> bytes:
    """A completion that echoes its prompt: a token's log-probability is minus its number."""
    ids = asked.body["prompt"]
    told = {
        "token_logprobs": [None, *(-float(token) for token in ids[1:]), -0.5],
        "top_logprobs": [None, *({"a": -7.0} for _ in ids[1:]), {"a": -0.5}],
    }
    choice = {"index": 0, "text": "", "finish_reason": "length", "logprobs": told | changes}
    return json.dumps({"choices": [choice]}).encode()


def test_likelihoods_are_summed_over_the_continuation(serve: Any, model_folder: Path) -> None:
    server = serve(lambda number, asked: Act(body=scored(asked)))
    engine = engine_of(server, tokenizer=model_folder)
    pairs = [([5, 6], [7]), ([5, 6], [7, 8]), ([5], [6, 7]), ([5, 6], [7]), ([5, 6], [9])]
    assert engine.loglikelihood(pairs) == [
        (-7.0, True), (-15.0, False), (-13.0, True), (-7.0, True), (-9.0, False)
    ]  # fmt: skip
    assert sorted(asked.body["prompt"] for asked in server.asked) == [
        [5, 6, 7], [5, 6, 7, 8], [5, 6, 9]
    ]  # fmt: skip
    assert {asked.path for asked in server.asked} == {"/v1/completions"}
    long = [([8] * 300 + [5], [7])]
    engine.loglikelihood(long)
    assert len(server.asked[-1].body["prompt"]) == 255


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"token_logprobs": None}, "lack the log-probabilities of the prompt"),
        ({"token_logprobs": [-1.0], "top_logprobs": [{"a": -1.0}]}, "1 log-probabilities for a"),
        ({"token_logprobs": [None, -1.0, float("nan"), -1.0]}, "that is not one"),
        ({"token_logprobs": [None, -1.0, 3.0, -1.0]}, "that is not one"),
        ({"token_logprobs": [None, -1.0, None, -1.0]}, "that is not one"),
        ({"token_logprobs": [None, -1.0, "-1", -1.0]}, "that is not one"),
        ({"top_logprobs": [None] * 4}, "that is not one"),
    ],
)
def test_a_server_without_likelihoods_is_one_sentence(
    serve: Any, model_folder: Path, changes: Any, what: str
) -> None:
    server = serve(lambda number, asked: Act(body=scored(asked, **changes)))
    engine = engine_of(server, tokenizer=model_folder)
    with pytest.raises(UserError, match=what) as caught:
        engine.loglikelihood([([5, 6], [7])])
    assert "m cannot say how likely a text is" in str(caught.value)
    assert "Use the engine hf or vllm" in str(caught.value)


def test_a_server_that_refuses_to_echo_is_quoted(serve: Any, model_folder: Path) -> None:
    server = serve(refusing("echo"))
    with pytest.raises(UserError, match=r"cannot say how likely .*unknown: \('echo',\)"):
        engine_of(server, tokenizer=model_folder).loglikelihood([([5], [6])])
    with pytest.raises(UserError, match="its tokenizer is unknown; name its folder"):
        engine_of(server).loglikelihood([([5], [6])])


# Whole evaluations ------------------------------------------------------------------------------


def test_an_evaluation_names_the_server_and_resumes_what_has_a_revision(
    serve: Any, tmp_path: Path
) -> None:
    server = serve()
    for revision, asked in ((None, 8), ("2026-11", 4)):
        server.asked.clear()
        for _ in range(2):
            engine = engine_of(server, revision=revision)
            out = tmp_path / str(revision)
            found = evaluate(engine, ["mini_gsm8k"], EvalOptions(limit=4), out=out)["mini_gsm8k"]
        assert (found.evaluation.engine, found.evaluation.model.id) == ("openai", "m")
        assert found.evaluation.model.digest == engine.model_digest
        assert len(server.asked) == asked


@pytest.mark.slow
def test_a_real_server_answers_as_the_model_does_here(
    model_folder: Path, engine: Any, tmp_path: Path
) -> None:
    prompts = ["She has 14 plums.", "How many plums does she have now?", "buys"]
    here = [engine.render([Message(role="user", content=prompt)]) for prompt in prompts]
    expected = engine.generate(here, GREEDY)
    with transformers_serve(model_folder, tmp_path / "log") as base_url:
        settings = ServerSettings(base_url=base_url, model=str(model_folder), max_concurrency=2)
        served = OpenAIEngine(settings)
        found = served.generate(prompts, GREEDY)
        assert [row[0].text for row in found] == [row[0].text for row in expected]
        assert all(row[0].completion_tokens for row in found)
        assert served.generate(["plums"], WARM) == served.generate(["plums"], WARM)
        rendered = OpenAIEngine(settings, tokenizer=model_folder)
        with pytest.raises(UserError, match="cannot say how likely a text is"):
            rendered.loglikelihood([([5, 6], [7])])
        with pytest.raises(UserError, match=r"not the model|cannot answer|cannot be answered"):
            settings = settings.model_copy(update={"model": "no-such-model", "max_attempts": 1})
            OpenAIEngine(settings).generate(["plums"], GREEDY)
