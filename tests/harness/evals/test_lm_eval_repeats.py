"""Several responses per document in lm-eval's output: which are right."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from helpers.lm_eval_stock import change_results, change_samples, evaluate
from lm_eval.api.model import LM

from harness.core.errors import UserError
from harness.core.schema import Policy, Rule
from harness.core.scored import ScoredEvaluation
from harness.engines import Completion, Engine, Sampling
from harness.evals import lm_eval_repeats
from harness.evals.evaluate import EvalOptions
from harness.evals.evaluate import evaluate as evaluate_by_engine
from harness.evals.lm_eval_results import load
from harness.gate import gate
from harness.stats.repeats import majority_at_k, pass_all_k, pass_at_k

N, DOCUMENTS = 5, 40
TASK = """
task: votes
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/votes.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "What is {{{{n}}}} plus 2?"
doc_to_target: "{{{{n + 2}}}}"
{repeats}
generation_kwargs: {{until: ["|"], max_gen_toks: 8, do_sample: true, temperature: 0.7}}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    regexes_to_ignore: [",", "\\\\$", "\\\\.$"]
filter_list:
{filters}
metadata: {{version: 1}}
"""
REGEX = '{function: regex, regex_pattern: "#### (-?[0-9.,]+)"}'
FIRST = f"  - {{name: first, filter: [{REGEX}, {{function: take_first}}]}}"
VOTE = (
    f"  - {{name: maj@5, filter: [{REGEX}, {{function: majority_vote}}, {{function: take_first}}]}}"
)
OF_3 = (
    f"  - {{name: maj@3, filter: [{{function: take_first_k, k: 3}}, {REGEX}, "
    "{function: majority_vote}, {function: take_first}]}"
)
WHOLE = "  - {name: none, filter: [{function: take_first}]}"
MEAN = f"  - {{name: mean, filter: [{{function: take_first_k, k: 5}}, {REGEX}]}}"


class Varied(LM):
    """A model that is right by chance, the more often the larger the number, drawn by a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)

    def generate_until(self, requests: list[Any]) -> list[str]:
        return [respond(request.args[0], self._random.random()) for request in requests]

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


def respond(prompt: str, drawn: float) -> str:
    number = int(prompt.split()[2])
    chance = number % 10 / 10
    if drawn < chance:
        return f"It is #### {number + 2}{'.' if drawn < chance / 3 else ''}"
    return "I do not know" if drawn < chance + 0.1 else f"#### {int(drawn * 30) % 3}"


def make(folder: Path, *filters: str, repeats: int | None = N) -> Path:
    folder.mkdir(exist_ok=True)
    rows = "".join(json.dumps({"n": n}) + "\n" for n in range(DOCUMENTS))
    (folder / "votes.jsonl").write_text(rows)
    said = "" if repeats is None else f"repeats: {repeats}"
    text = TASK.format(folder=folder, repeats=said, filters="\n".join(filters))
    (folder / "votes.yaml").write_text(text)
    return folder


def run(tmp_path: Path, *filters: str, seed: int = 0, **changes: Any) -> Path:
    folder = make(tmp_path / "tasks", *filters, **changes)
    return evaluate(folder, tmp_path / f"out{seed}", ["votes"], limit=None, model=Varied(seed))


def means(scored: ScoredEvaluation) -> dict[str, float | None]:
    return {name: result.mean for name, result in scored.evaluation.metrics.items()}


def test_each_response_is_counted_as_lm_eval_scores_it(tmp_path: Path) -> None:
    out = run(tmp_path, FIRST, VOTE, OF_3)
    found = load(out)["votes"]
    (path,) = out.rglob("samples_votes_*.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    expected: dict[str, list[float]] = {"pass@2": [], "pass^3": [], "maj@5": [], "pass@1": []}
    for row in (row for row in rows if row["filter"] == "first"):
        answers = [r.partition("#### ")[2] or "[invalid]" for r in row["resps"][0]]
        right = [float(a.removesuffix(".") == row["target"]) for a in answers]
        c = int(sum(right))
        expected["pass@1"].append(c / N)
        expected["pass@2"].append(pass_at_k(N, c, 2))
        expected["pass^3"].append(pass_all_k(N, c, 3))
        expected["maj@5"].append(majority_at_k(right, answers, 5))
    shown = means(found)
    for name in ("pass@1", "pass@2", "maj@5"):
        assert shown[name] == pytest.approx(sum(expected[name]) / DOCUMENTS)
    policy = Policy(rules=[Rule(task="votes", metric="pass^3", margin=0.2, tier="advisory")])
    check = gate({"votes": found}, {"votes": found}, policy).checks[0]
    assert (check.n, check.baseline_mean) == (40, pytest.approx(sum(expected["pass^3"]) / 40))
    results = json.loads(next(out.rglob("results_*.json")).read_text())["results"]["votes"]
    for name in ("exact_match,first", "exact_match,maj@5", "exact_match,maj@3"):
        assert shown[name] == pytest.approx(results[name])


def test_the_vote_is_that_of_lm_evals_filter_where_no_answers_tie(tmp_path: Path) -> None:
    found = load(run(tmp_path, VOTE))["votes"]
    compared = 0
    for score in found.scores:
        told = score.details["responses"]
        votes, right = told["votes"]["exact_match,maj@5"], told["right"]["exact_match,maj@5"]
        counts = sorted((votes.count(vote) for vote in {*votes}), reverse=True)
        if len(counts) == 1 or counts[0] > counts[1]:
            compared += 1
            assert majority_at_k(right, votes, N) == score.values["exact_match,maj@5"]
    assert compared > 20


def test_two_runs_are_gated_on_them(tmp_path: Path) -> None:
    sides = [load(run(tmp_path, FIRST, VOTE, seed=seed)) for seed in (0, 1)]
    rules = ("pass@2", "maj@3(exact_match,maj@5)", "pass^5(exact_match,first)")
    policy = Policy(
        rules=[Rule(task="votes", metric=m, margin=0.3, allow_floor=True) for m in rules]
    )
    decision = gate(*sides, policy)
    assert [check.metric for check in decision.checks] == [*rules]
    assert all(check.n == DOCUMENTS and check.stderr > 0 for check in decision.checks)
    more = Policy(rules=[Rule(task="votes", metric="pass@8", margin=0.3)])
    with pytest.raises(UserError, match=r"pass@8 of votes takes 8 responses .* has 5\. .*repeats:"):
        gate(*sides, more)


def test_one_response_per_document_has_none(tmp_path: Path) -> None:
    found = load(run(tmp_path, FIRST, repeats=1))["votes"]
    assert [*means(found)] == ["exact_match,first"]
    assert not any(score.details for score in found.scores)


def test_a_filter_that_keeps_several_responses_is_counted(tmp_path: Path) -> None:
    """lm-eval's value of a document is then the mean over its responses, not yes or no."""
    folder = make(tmp_path / "tasks", MEAN)
    plain = (
        (folder / "votes.yaml")
        .read_text()
        .replace('regexes_to_ignore: [",", "\\\\$", "\\\\.$"]', "")
    )
    (folder / "votes.yaml").write_text(plain)
    out = evaluate(folder, tmp_path / "out", ["votes"], limit=None, model=Varied(0))
    shown = means(load(out)["votes"])
    assert shown["pass@1"] == pytest.approx(shown["exact_match,mean"])
    assert shown["pass^5"] < shown["pass@1"] < shown["pass@5"]


@pytest.mark.parametrize("step", ["lowercase", "uppercase", "remove_whitespace"])
def test_steps_that_change_texts_are_applied(tmp_path: Path, step: str) -> None:
    entry = (
        f"  - {{name: changed, filter: [{REGEX}, {{function: {step}}}, {{function: take_first}}]}}"
    )
    shown = means(load(run(tmp_path, entry))["votes"])
    assert shown["pass@5"] > shown["pass@1"] > 0


def refusal(out: Path, metric: str = "pass@2") -> str:
    side = load(out)
    assert not any("@" in name for name in means(side["votes"]))
    with pytest.raises(UserError) as refused:
        gate(side, side, Policy(rules=[Rule(task="votes", metric=metric, margin=0.3)]))
    return str(refused.value)


def test_what_is_not_reproduced_is_not_counted(tmp_path: Path) -> None:
    def edit(row: dict[str, Any]) -> None:
        if row["doc_id"] == 9:
            row["resps"][0].reverse()

    out = change_samples(run(tmp_path, FIRST), "votes", edit)
    said = refusal(out)
    assert "pass@2 of votes cannot be computed: its filter and exact_match, applied again" in said
    assert "document 9" in said


def test_steps_that_are_not_known_are_not_run(tmp_path: Path) -> None:
    def edit(results: dict[str, Any]) -> None:
        results["configs"]["votes"]["filter_list"][0]["filter"][0]["function"] = "custom"

    out = change_results(run(tmp_path, FIRST), edit)
    assert "its filter 'first' has a step 'custom', which is not run here" in refusal(out)


def test_a_malicious_pattern_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval_repeats, "MAX_SECONDS", 0.5)

    def edit(results: dict[str, Any]) -> None:
        step = results["configs"]["votes"]["filter_list"][0]["filter"][0]
        step["regex_pattern"] = r"(?:a|aa)+$"

    def longer(row: dict[str, Any]) -> None:
        row["resps"][0][0] = "a" * 60 + "!"

    out = change_results(change_samples(run(tmp_path, FIRST), "votes", longer), edit)
    assert "its regular expressions took longer than 0.5 seconds" in refusal(out)


class Drawn(Engine):
    """An engine without a tokenizer that answers like `Varied`, by prompt and number."""

    name, model_id, model_digest, tokenizer = "drawn", "drawn", "d" * 64, None

    def render(self, messages: Any) -> str:
        return "".join(message.content for message in messages)

    def generate(
        self, prompts: Any, sampling: Sampling, on_done: Any = None
    ) -> list[list[Completion]]:
        return [[self.answer(prompt, number) for number in range(sampling.n)] for prompt in prompts]

    def answer(self, prompt: str, number: int) -> Completion:
        text = respond(prompt, random.Random(f"{prompt} {number}").random())
        return Completion(text, "stop", 5, 3)


def test_an_engine_is_asked_as_often_and_counted_alike(tmp_path: Path) -> None:
    folder = make(tmp_path / "tasks", FIRST, WHOLE, repeats=None)
    options = EvalOptions(repeats=4, include_path=[folder])
    scored = evaluate_by_engine(Drawn(), ["votes"], options, out=tmp_path / "out")["votes"]
    shown = means(scored)
    assert len(scored.scores) == 4 * DOCUMENTS
    assert shown["pass^4"] < shown["exact_match,first"] < shown["pass@4"]
    assert {"maj@2", "maj@4"} <= shown.keys()
    by_document = [scored.scores[i : i + 4] for i in range(0, len(scored.scores), 4)]
    right = [[s.values["exact_match,first"] for s in scores] for scores in by_document]
    votes = [[s.details["answers"]["exact_match,first"] for s in scores] for scores in by_document]
    expected = [majority_at_k(r, v, 4) for r, v in zip(right, votes, strict=True)]
    assert shown["maj@4"] == pytest.approx(sum(expected) / DOCUMENTS)
    again = evaluate_by_engine(Drawn(), ["votes"], options, out=tmp_path / "out")["votes"]
    assert again.evaluation == scored.evaluation


def test_filters_that_choose_get_all_responses_of_an_engine(tmp_path: Path) -> None:
    folder = make(tmp_path / "tasks", FIRST, VOTE, OF_3, repeats=None)
    options = EvalOptions(repeats=6, include_path=[folder])
    shown = means(evaluate_by_engine(Drawn(), ["votes"], options)["votes"])
    assert {"exact_match,maj@5", "exact_match,maj@3", "pass@6", "maj@6"} <= shown.keys()
    assert shown["pass^6"] < shown["pass@1"] < shown["pass@6"]
    with pytest.raises(UserError, match="'maj@3' of votes takes 3 responses per item, and 2 were"):
        evaluate_by_engine(Drawn(), ["votes"], EvalOptions(repeats=2, include_path=[folder]))
