"""Run the stages of an iteration one at a time, from file to file, to inspect what they do.

For the same iteration they write what a run keeps in `RUN/iter_K`, byte for byte: same code, same
prompts, same seeds.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.files import file_digest, jsonl_bytes, parse, read_jsonl
from harness.core.folders import new_folder
from harness.core.log import say
from harness.core.outputs import NEW_FOLDER, check_file, json_lines_of
from harness.core.schema import Record, Sample
from harness.core.text import plural
from harness.engines.model_folder import ADAPTER_CONFIG, CONFIG, Checkpoint, find
from harness.engines.prompts import without_surrogates
from rlrf import stages
from rlrf.config import Config
from rlrf.context import IterationContext, open_services
from rlrf.feedback import Judged
from rlrf.methods import rlrf
from rlrf.objectives.dpo import dpo
from rlrf.objectives.job import checkpoint
from rlrf.pairs import Pair
from rlrf.reflect import Refinement
from rlrf.run import Records, Run
from rlrf.training_examples import ExamplesReport, find_leak

SAMPLES = json_lines_of("a file of samples", Sample)
JUDGED = json_lines_of("a file of judged responses", Judged)
REFINEMENTS = json_lines_of("a file of refinements", Refinement)
PAIRS = json_lines_of("a file of pairs", Pair)
KINDS: Mapping[str, type[Record]] = {
    "samples": Sample,
    "refinements": Refinement,
    "judged responses": Judged,
    "pairs": Pair,
}


def explore(
    config: Config,
    out: Path,
    *,
    model: str | None = None,
    iteration: int = 1,
    limit: int | None = None,
) -> list[Sample]:
    """Sample responses of `model`, by default the configuration's, and write them to `out`."""
    written = check_file(out, SAMPLES)
    with _open(config, policy_model(config, model), iteration, limit=limit) as context:
        samples = stages.explore(context).records
    written.write(jsonl_bytes(samples))
    return samples


def feedback(config: Config, responses: Path, out: Path, *, iteration: int = 1) -> list[Judged]:
    """Score the samples or refinements in a file, with feedback, and write them to `out`.

    With `explore.keep`, only the best samples per prompt get feedback, as in a run.
    """
    written = check_file(out, JUDGED, [responses])
    read = _read(responses, "samples", "refinements")
    with _open(config, _not_loaded(config), iteration, feedback=True) as context:
        if all(isinstance(one, Refinement) for one in read.records):
            _check_prompts(responses, context, [one.sample for one in read.records])
            judged = stages.give_feedback_on_refinements(context, read).records
        else:
            _check_prompts(responses, context, read.records)
            judged = stages.give_feedback(context, stages.select(context, read)).records
    written.write(jsonl_bytes(judged))
    return judged


def reflect(
    config: Config, judged: Path, out: Path, *, model: str | None = None, iteration: int = 1
) -> list[Refinement]:
    """Let `model`, by default the configuration's, rewrite judged responses, and write `out`."""
    written = check_file(out, REFINEMENTS, [judged])
    read = _read(judged, "judged responses")
    with _open(config, policy_model(config, model), iteration) as context:
        _check_prompts(judged, context, [one.sample for one in read.records])
        refinements = stages.refine(context, read).records
    written.write(jsonl_bytes(refinements))
    return refinements


def pairs(
    config: Config, judged: Sequence[Path], out: Path, *, iteration: int = 1
) -> ExamplesReport:
    """Pair the judged responses in some files, refinements last, and write the pairs to `out`."""
    written = check_file(out, PAIRS, judged)
    responses: list[Judged] = []
    with _open(config, _not_loaded(config), iteration) as context:
        for path in judged:
            read = _read(path, "judged responses").records
            _check_prompts(path, context, [one.sample for one in read])
            responses += read
        explored = {one.sample.item for one in responses if one.draft is None}
        if unexplored := {one.sample.item for one in responses} - explored:
            raise UserError(
                f"For {len(unexplored)} {plural('prompt', len(unexplored))} there are only "
                "refinements. Also name the file of the judged responses that they rewrite."
            )
        made, report = rlrf.pair(context, responses)
    written.write(jsonl_bytes(made))
    return report


def train_step(
    config: Config, pairs: Path, out: Path, *, model: str | None = None, iteration: int = 1
) -> Checkpoint:
    """Train `model`, by default the configuration's, by DPO on the pairs in a file.

    Raises:
        UserError: `out` is not empty, there are no pairs, they repeat held-out items, or training
            fails.
    """
    NEW_FOLDER.check(out)
    examples = _read(pairs, "pairs").records
    if not examples:
        raise UserError(f"{pairs} holds no pairs to train on.")
    odd = sum(any(without_surrogates(text) != text for text in pair.texts) for pair in examples)
    if odd:
        say(f"{odd} of {len(examples)} pairs hold half of a surrogate pair, which is read as '?'")
    with _open(config, policy_model(config, model), iteration) as context:
        texts = {text for pair in examples for text in (pair.prompt, *pair.texts)}
        if leak := find_leak(texts, context.services.held_out, config.gate.overlap):
            raise UserError(f"{pairs}: {leak}. Take those pairs out.")
        with new_folder(out) as new:
            stages.fit(context, examples, dpo, new)
            if context.logs.is_dir():
                shutil.copytree(context.logs, new / "logs")
    return checkpoint(out, context.candidate_name, context.policy_model)


@contextlib.contextmanager
def _open(
    config: Config,
    model: Checkpoint,
    iteration: int,
    *,
    feedback: bool = False,
    limit: int | None = None,
) -> Iterator[IterationContext]:
    """Open an iteration in a temporary run folder, which is deleted at the end of the block."""
    with (
        open_services(config, feedback=feedback) as services,
        tempfile.TemporaryDirectory() as folder,
    ):
        yield IterationContext(services, Run(Path(folder), {}), model, iteration, limit)


def policy_model(config: Config, model: str | None) -> Checkpoint:
    """Return the policy model: `model`, which may be an adapter, or the configuration's."""
    if model is not None:
        folder = find(model)
        if (folder / CONFIG).exists() or not (folder / ADAPTER_CONFIG).exists():
            return Checkpoint(model, folder)
        return Checkpoint(model, find(config.model, config.revision), folder)
    return Checkpoint("M0", find(config.model, config.revision))


def _not_loaded(config: Config) -> Checkpoint:
    """Return a placeholder for stages that load no policy model: it is not even looked for."""
    return Checkpoint("M0", Path(config.model))


def _read(path: Path, *wanted: str) -> Records[Any]:
    """Read the records of a file, which must be of one of the kinds `wanted`."""
    rows = read_jsonl(path)
    held = next((name for name in KINDS if rows and _is(KINDS[name], rows[0][1])), wanted[0])
    if held not in wanted:
        raise UserError(f"{path} holds {held}; expected {' or '.join(wanted)}.")
    records = [parse(KINDS[held], row, f"{path}, line {number}") for number, row in rows]
    return Records(records, file_digest(path))


def _is(kind: type[Record], row: Mapping[str, Any]) -> bool:
    fields = kind.model_fields
    needed = {name for name, field in fields.items() if field.is_required()}
    return needed <= row.keys() <= fields.keys()


def _check_prompts(path: Path, context: IterationContext, samples: Sequence[Sample]) -> None:
    """Refuse samples that do not answer the prompts of the iteration."""
    asked = {(item.task, name) for name, item in context.items.items()}
    if others := {(sample.task, sample.item) for sample in samples} - asked:
        raise UserError(
            f"{path} answers {len(others)} prompts that iteration {context.number} of the "
            "configuration does not ask. Name the iteration with --turn, and the configuration "
            "that the file was made with."
        )
