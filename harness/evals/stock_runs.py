"""Evaluate one task or group of lm-eval by an engine, and score it with lm-eval's own code.

`lm_eval.evaluator.evaluate` filters, scores and aggregates, so that all numbers are those of
`lm_eval run`. It gets requests and answers that were made before: a failure to score loses none.
"""

from __future__ import annotations

import copy
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import LM
from lm_eval.utils import handle_non_serializable, hash_string, sanitize_list

from harness.core.errors import UserError, summarize
from harness.core.files import records_digest
from harness.core.log import say
from harness.core.progress import track
from harness.core.schema import LM_EVAL, Metric, ModelRef, Sample, Score
from harness.core.scored import ScoredEvaluation
from harness.core.text import listed
from harness.engines import Completion
from harness.evals import evaluation
from harness.evals.lm import EngineLM, has_chat_template, to_sampling
from harness.evals.lm_eval_metrics import Group, combine, shared_settings
from harness.evals.lm_eval_repeats import chosen_among, require_enough, with_compared_texts
from harness.evals.lm_eval_results import convert, number_copies, prompt_digest
from harness.evals.lm_eval_runs import Run, mapping
from harness.evals.scoring import Generation, code_version, dataset_digest
from harness.evals.stock_tasks import FEWSHOT_SEED, StockTask, no_exit, quiet_lm_eval
from harness.stats.intervals import aggregate, with_repeats

if TYPE_CHECKING:
    from harness.evals.evaluate import EvalOptions

Answer = Completion | tuple[float, bool] | float


class StockRun:
    """One task or group in an evaluation: its requests, and their answers once they exist.

    Attributes:
        generation: what determines the answers.
        scored: an equal evaluation that was made before; None: there is none.
    """

    def __init__(self, task: StockTask, options: EvalOptions, lm: EngineLM) -> None:
        """Build all requests, so that what cannot be evaluated is refused before any is answered.

        Raises:
            UserError: the engine lacks an ability, or the task refuses the options.
        """
        self.task = task
        self.scored: ScoredEvaluation | None = None
        self._options = options
        self._lm = lm
        self._passes = 1
        self._repeats: int | None = None
        self._answers: dict[int, list[Answer]] = {}
        self._chat = bool(options.apply_chat_template)
        multiturn = options.fewshot_as_multiturn
        self._multiturn = self._chat if multiturn is None else multiturn
        self._require_possible()
        self._positions = task.positions(options.indices, options.limit)
        self._tasks = {name: _configured(task.members[name], options) for name in self._positions}
        self._set_repeats(options.repeats)
        self._build()
        self.generation = self._describe()

    def _require_possible(self) -> None:
        name, options = self.task.name, self._options
        if options.split is not None:
            raise UserError(
                f"{name} is a task of lm-eval, whose YAML says which split is evaluated. Leave out "
                "the split."
            )
        if self._chat and not has_chat_template(self._lm.engine):
            raise UserError(
                f"{self._lm.engine.model_id} has no chat template: leave out apply_chat_template."
            )
        if self._multiturn and not self._chat:
            raise UserError("fewshot_as_multiturn needs apply_chat_template: give both.")
        if self.task.is_group:
            self._require_common_metric()
        if self.task.needs_likelihoods:
            self._lm.require_likelihoods()
        for member, task in self.task.members.items():
            if getattr(task, "UNSAFE_CODE", False) and not options.confirm_run_unsafe_code:
                raise UserError(
                    f"{member} runs code that the model writes, on this machine. If that is safe "
                    "here, evaluate with --confirm-run-unsafe-code (and HF_ALLOW_CODE_EVAL=1 in "
                    "the environment, which its metric asks for)."
                )
            if getattr(task, "MULTIMODAL", False):
                raise UserError(f"{member} asks about images or sounds, which engines do not take.")

    def _require_common_metric(self) -> None:
        """Refuse a group whose score is of metrics that none of its tasks measures."""
        wanted = {entry.metric for entry in self.task.groups[self.task.name].aggregate_metric_list}
        known: set[str] = set()
        for task in self.task.members.values():
            if callable(task.config.process_results):
                return  # its metrics are known when it is scored
            known |= {*task.aggregation()}
        if not wanted & known:
            raise UserError(
                f"The group {self.task.name} is scored by {listed(sorted(wanted))}, which none of "
                f"its tasks measures; they measure {listed(sorted(known))}. Evaluate its tasks "
                f"instead: {listed(self.task.members)}."
            )

    def _set_repeats(self, repeats: int | None) -> None:
        """Let each response of an item be scored on its own, if so many were asked for.

        If a filter of a task chooses among several responses, lm-eval scores them together instead.

        Raises:
            UserError: responses would be equal, or too few for a filter.
        """
        generated = [t for t in self._tasks.values() if t.OUTPUT_TYPE == "generate_until"]
        for task in generated:
            to_sampling(task.config.generation_kwargs, self._options.seed)
        if repeats is None or repeats == 1:
            return
        if len(generated) < len(self._tasks):
            say(f"evaluate {self.task.name}: likelihoods have no repeats, so there is one score")
            return
        for task in generated:
            if to_sampling(task.config.generation_kwargs, 0).temperature == 0:
                raise UserError(
                    f"{task.task_name} is decoded greedily: {repeats} responses per item would be "
                    "equal. Set a temperature above 0."
                )
            require_enough(task, repeats)
        if any(chosen_among(task.config.filter_list) for task in generated):
            self._repeats = repeats  # lm-eval chooses among all responses of an item
        else:
            self._passes = repeats
        for task in generated:
            task.config.repeats = self._repeats or 1

    def _build(self) -> None:
        for name, task in self._tasks.items():
            places = self._positions[name]
            is_whole = len(places) == self.task.sizes[name]
            try:
                with no_exit():
                    task.build_all_requests(
                        samples=None if is_whole else places,
                        system_instruction=self._options.system_instruction,
                        apply_chat_template=self._chat,
                        fewshot_as_multiturn=self._multiturn,
                        chat_template=self._lm.apply_chat_template if self._chat else None,
                        tokenizer_name=self._lm.tokenizer_name if self._chat else "",
                    )
            except Exception as error:  # templates and functions of the task raise anything
                if isinstance(error, UserError):
                    raise
                raise UserError(
                    f"lm-eval cannot make the prompts of {name}: {summarize(error)}. If examples "
                    "are missing, lower --num-fewshot."
                ) from error
            # lm-eval's `evaluate` builds the requests again, and would lose their answers.
            task.build_all_requests = lambda **_: None

    def _describe(self) -> Generation:
        """Describe everything that determines the answers, as `combine` does afterwards."""
        run = self._run({})
        parts = {}
        for name, task in self._tasks.items():
            first = {r.doc_id: r for r in reversed(task.instances) if r.idx == 0}
            prompts = [hash_string(first[i].arguments[0]) for i in sorted(first)]
            decoding = mapping(run.configuration(name).get("generation_kwargs"))
            if self._passes > 1:
                decoding = decoding | {"n": self._passes}
            elif self._repeats is not None:
                decoding = decoding | {"repeats": self._repeats}
            parts[name] = self._generation(
                split=run.split(name),
                decoding=decoding,
                prompt_digest=prompt_digest(run, name, prompts),
            )
        wanted = {
            start + place
            for name, start in self.task.starts.items()
            for place in self._positions.get(name, ())
        }
        items = number_copies(item for item in self.task.items() if item.index in wanted)
        settings = (
            shared_settings(parts)
            if self.task.is_group
            else {key: getattr(parts[self.task.name], key) for key in _SETTINGS}
        )
        return self._generation(**settings, dataset_digest=dataset_digest(items))

    def _generation(self, **settings: Any) -> Generation:
        engine = self._lm.engine
        return Generation(
            task=self.task.name,
            model=ModelRef(id=engine.model_id, digest=engine.model_digest),
            engine=f"{LM_EVAL} rlrf/{engine.name}",
            seed=self._options.seed,
            code_version=code_version(),
            **{"dataset_digest": "none"} | settings,
        )

    def _run(self, results: Mapping[str, Any]) -> Run:
        """Describe this evaluation as lm-eval's results file would; `results` are lm-eval's."""
        system, chat = self._options.system_instruction, self._chat
        results_file = {
            "configs": {name: task.dump_config() for name, task in self._tasks.items()},
            "n-shot": {name: task.config.num_fewshot or 0 for name, task in self._tasks.items()},
            **results,
            "config": {"model": f"rlrf/{self._lm.engine.name}", "fewshot_seed": FEWSHOT_SEED},
            "model_name": self._lm.engine.model_id,
            "system_instruction_sha": hash_string(system) if system else None,
            "chat_template": "applied" if chat else None,
            "fewshot_as_multiturn": self._multiturn,
        }
        return Run(Path(f"lm-eval's results of {self.task.name}"), _as_logged(results_file))

    def reuse(self, folder: Path) -> None:
        """Take an equal evaluation from `folder`, if there is one."""
        self.scored = evaluation.find_equal(self.generation, folder)
        if self.scored is not None:
            say(f"evaluate {self.task.name}: evaluated before")

    def answer(self) -> None:
        """Get the answers to all requests from the engine."""
        by_type: dict[str, list[Any]] = defaultdict(list)
        for task in self._tasks.values():
            for request in task.instances:
                by_type[request.request_type].append(request)
        for kind, requests in by_type.items():
            is_generated = kind == "generate_until"
            counts = [r.repeats * self._passes if is_generated else 1 for r in requests]
            unit = "responses" if is_generated else "likelihoods"
            with track(f"evaluate {self.task.name}", sum(counts), unit) as self._lm.on_done:
                answers = (
                    self._lm.complete(requests, counts)
                    if is_generated
                    else [[value] * r.repeats for r, value in self._likelihoods(kind, requests)]
                )
            self._lm.on_done = None
            self._answers |= {id(r): a for r, a in zip(requests, answers, strict=True)}

    def _likelihoods(self, kind: str, requests: list[Any]) -> Any:
        return zip(requests, getattr(self._lm, kind)(requests), strict=True)

    def score(self) -> ScoredEvaluation:
        """Score the answers with lm-eval's code; each of the item's repeats on its own.

        Raises:
            UserError: lm-eval or the task's own code fails.
        """
        passes = [self._score_pass(number) for number in range(self._passes)]
        first = passes[0].evaluation
        scores = sorted((s for p in passes for s in p.scores), key=_place)
        samples = sorted((s for p in passes for s in p.samples), key=_place)
        definitions = _agreed([p.evaluation.definitions for p in passes])
        shown = {n: m for n, m in first.metrics.items() if n not in definitions}
        made = {name: getattr(self.generation, name) for name in Generation.model_fields}
        scored = ScoredEvaluation(
            evaluation=first.model_copy(
                update=made
                | {
                    "definitions": definitions,
                    "metrics": aggregate(scores, definitions) | shown,
                    "samples_digest": records_digest(samples),
                    "scores_digest": records_digest(scores),
                }
            ),
            scores=scores,
            samples=samples,
            items=passes[0].items,
        )
        return with_repeats(scored)

    def _score_pass(self, number: int) -> ScoredEvaluation:
        results = self._lm_eval_results(number)
        logged = results.pop("samples")
        run = self._run(results)
        parts = {}
        for name in self._tasks:
            rows = [_as_row(sample) for sample in logged[name]]
            source = f"lm-eval's samples of {name}"
            converted = convert(run, name, rows, source=source)
            if self._passes > 1:
                converted = with_compared_texts(converted, rows)
            parts[name] = self._with_answers(name, converted, number)
        if not self.task.is_group:
            return parts[self.task.name]
        return combine(Group(self.task.name, self.task.name, list(parts), run), parts)

    def _lm_eval_results(self, number: int) -> dict[str, Any]:
        from lm_eval.evaluator import evaluate

        for task in self._tasks.values():
            for request in task.instances:
                request.resps, request.filtered_resps = [], {}
        parts = {
            name: places
            for name, places in self._positions.items()
            if len(places) < self.task.sizes[name]
        }
        try:
            with quiet_lm_eval(), no_exit():
                return dict(
                    evaluate(
                        lm=_Answered(self._answers, number),
                        task_dict={"tasks": self._tasks, "groups": self.task.groups},
                        samples=parts,
                        bootstrap_iters=0,  # a mean's error is ours; others would take minutes
                        log_samples=True,
                        confirm_run_unsafe_code=self._options.confirm_run_unsafe_code,
                    )
                )
        except Exception as error:  # the task's own code scores what a model wrote
            raise UserError(
                f"lm-eval failed to score the answers to {self.task.name}: {summarize(error)}. "
                "With --out the answers are kept: mend the task, and run the same command again."
            ) from error

    def _with_answers(self, name: str, scored: ScoredEvaluation, repeat: int) -> ScoredEvaluation:
        """Add what the engine said to the samples and scores: tokens, refusals, likelihoods."""
        by_place: dict[int, list[Any]] = defaultdict(list)
        places = self._positions[name]
        for request in self._tasks[name].instances:
            by_place[places[request.doc_id]].append(request)
        samples: dict[int, Sample] = {sample.index: sample for sample in scored.samples}
        scores: list[Score] = []
        for score in scored.scores:
            requests = by_place[score.index]
            answers = [
                a
                for r in requests
                for a in self._answers[id(r)][repeat * r.repeats : (repeat + 1) * r.repeats]
            ]
            completions = [a for a in answers if isinstance(a, Completion)]
            if completions and score.index in samples:
                samples[score.index] = _with_completion(
                    samples[score.index], completions[0], repeat
                )
            scores.append(_with_details(score, requests, answers, completions, repeat))
        return ScoredEvaluation(
            scored.evaluation, scores, [samples[i] for i in sorted(samples)], scored.items
        )


_SETTINGS = ("split", "decoding", "prompt_digest")


class _Answered(LM):  # type: ignore[misc]  # lm-eval is untyped
    """A model that gives the answers that were made before, of one repeat."""

    def __init__(self, answers: Mapping[int, Sequence[Answer]], repeat: int) -> None:
        super().__init__()
        self._answers = answers
        self._repeat = repeat

    def _give(self, requests: Sequence[Any]) -> list[Any]:
        given: dict[int, int] = defaultdict(int)
        answers = []
        for request in requests:
            place = self._repeat * request.repeats + given[id(request)]
            answer = self._answers[id(request)][
                place if len(self._answers[id(request)]) > place else 0
            ]
            given[id(request)] += 1
            answers.append(answer.text if isinstance(answer, Completion) else answer)
        return answers

    generate_until = loglikelihood = loglikelihood_rolling = _give


def _configured(task: Any, options: EvalOptions) -> Any:
    """Copy a task and set it to the options, as lm-eval's `simple_evaluate` sets tasks."""
    new = copy.copy(task)
    new._config = config = copy.copy(task.config)
    if hasattr(new, "sampler"):
        new.sampler = copy.copy(task.sampler)
    if options.num_fewshot is not None and config.num_fewshot == 0 != options.num_fewshot:
        say(f"evaluate {config.task}: its YAML sets num_fewshot: 0, which lm-eval keeps")
    elif options.num_fewshot is not None:
        new.set_config("num_fewshot", options.num_fewshot)
    elif config.num_fewshot is None:
        new.set_config("num_fewshot", 0)
    if new.OUTPUT_TYPE == "generate_until":
        own = dict(config.generation_kwargs or {})
        new.set_config("generation_kwargs", own | options.decoding)
    new.set_fewshot_seed(FEWSHOT_SEED)
    return new


def _as_logged(value: Any) -> Any:
    """Return `value` as lm-eval writes it to a file and it is read back."""
    return json.loads(json.dumps(value, default=handle_non_serializable, ensure_ascii=False))


def _as_row(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sample as a line of lm-eval's file of samples has it."""
    arguments = {
        f"gen_args_{i}": {f"arg_{j}": part for j, part in enumerate(args)}
        for i, args in enumerate(sample["arguments"])
    }
    changed = {
        "resps": sanitize_list(sample["resps"]),
        "filtered_resps": sanitize_list(sample["filtered_resps"]),
        "arguments": arguments,
        "target": str(sample["target"]),
    }
    row: dict[str, Any] = _as_logged({**sample, **changed})
    return row


def _with_completion(sample: Sample, completion: Completion, repeat: int) -> Sample:
    """Return the sample with what the engine reported of the response."""
    return sample.model_copy(
        update={
            "repeat": repeat,
            "response": completion.text,
            "finish_reason": completion.finish_reason,
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
            "unanswered": completion.unanswered,
        }
    )


def _with_details(
    score: Score,
    requests: Sequence[Any],
    answers: Sequence[Answer],
    completions: Sequence[Completion],
    repeat: int,
) -> Score:
    """Add the likelihoods to a score; take its values away if a response is missing."""
    changes: dict[str, Any] = {"repeat": repeat}
    pairs = [answer for answer in answers if isinstance(answer, tuple)]
    if pairs:
        values = [value if math.isfinite(value) else None for value, _ in pairs]
        changes["details"] = score.details | {"loglikelihoods": values}
        if len(pairs) > 1:
            best = max(range(len(pairs)), key=lambda i: pairs[i][0])
            changes["details"] |= {"likeliest": str(requests[best % len(requests)].args[-1])}
    elif answers and not completions:
        totals = [a for a in answers if isinstance(a, float) and math.isfinite(a)]
        changes["details"] = score.details | {"loglikelihoods": totals}
    if reason := next((c.unanswered for c in completions if c.unanswered), ""):
        changes["values"] = {}
        changes["unscored"] = dict.fromkeys(
            (*score.values, *score.unscored), f"no response: {reason}"
        )
    return score.model_copy(update=changes)


def _agreed(definitions: Sequence[Mapping[str, Metric]]) -> dict[str, Metric]:
    """Return the definitions that all repeats share; yes/no and known ranges only if all say so."""
    agreed = {}
    for name, metric in definitions[0].items():
        others = [defined.get(name) for defined in definitions]
        if any(other is None for other in others):
            continue
        kinds = {other.kind for other in others if other}
        ranges = {(other.low, other.high) for other in others if other}
        low, high = ranges.pop() if len(ranges) == 1 else (None, None)
        kind = kinds.pop() if len(kinds) == 1 else "continuous"
        agreed[name] = metric.model_copy(update={"kind": kind, "low": low, "high": high})
    return agreed


def _place(record: Sample | Score) -> tuple[int, int]:
    return record.index, record.repeat
