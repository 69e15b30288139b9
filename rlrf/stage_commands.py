"""The stages of an iteration one at a time, from file to file, so that a person can look between.

Of one turn they make what a run keeps in `RUN/iter_K`, byte for byte: the same code, the same
slice of prompts, the same seeds.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.files import file_digest, jsonl_bytes, parse, read_jsonl
from harness.core.folders import new_folder
from harness.core.outputs import NEW_FOLDER, check_file, json_lines_of
from harness.core.progress import say
from harness.core.schema import Record, Sample
from harness.engines.model_folder import ADAPTER_CONFIG, CONFIG, find
from harness.engines.text import without_surrogates
from rlrf import stages
from rlrf.checkpoint import Checkpoint
from rlrf.config import Config
from rlrf.context import IterationContext, open_tools
from rlrf.feedback import Judged
from rlrf.leaks import leaks
from rlrf.methods import rlrf
from rlrf.objectives.base import checkpoint
from rlrf.objectives.dpo import dpo
from rlrf.pairs import Pair
from rlrf.reflect import Refinement
from rlrf.run import Records
from rlrf.training_examples import ExamplesReport

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
    config: Config, out: Path, *, model: str | None = None, turn: int = 1, limit: int | None = None
) -> list[Sample]:
    """Write what `model`, or else the configuration's, answers to the prompts of the turn."""
    written = check_file(out, SAMPLES)
    with open_tools(config, feedback=False) as tools:
        found = stages.explored(IterationContext(tools, start(config, model), turn, limit)).records
    written.write(jsonl_bytes(found))
    return found


def feedback(config: Config, responses: Path, out: Path, *, turn: int = 1) -> list[Judged]:
    """Write score and feedback of the samples or refinements in a file.

    Of samples, the `explore.keep` best of each prompt alone, where the configuration says so.
    """
    written = check_file(out, JUDGED, [responses])
    read = _read(responses, "samples", "refinements")
    with open_tools(config) as tools:
        here = IterationContext(tools, _unread(config), turn)
        if all(isinstance(one, Refinement) for one in read.records):
            _check_asked(responses, here, [one.sample for one in read.records])
            found = stages.rejudged(here, read).records
        else:
            _check_asked(responses, here, read.records)
            found = stages.judged(here, stages.promising(here, read)).records
    written.write(jsonl_bytes(found))
    return found


def reflect(
    config: Config, judged: Path, out: Path, *, model: str | None = None, turn: int = 1
) -> list[Refinement]:
    """Write how `model`, or else the configuration's, rewrites what was judged in a file."""
    written = check_file(out, REFINEMENTS, [judged])
    read = _read(judged, "judged responses")
    with open_tools(config, feedback=False) as tools:
        here = IterationContext(tools, start(config, model), turn)
        _check_asked(judged, here, [one.sample for one in read.records])
        found = stages.refined(here, read).records
    written.write(jsonl_bytes(found))
    return found


def pairs(config: Config, judged: Sequence[Path], out: Path, *, turn: int = 1) -> ExamplesReport:
    """Write the preference pairs of the judged responses in some files, refinements last."""
    written = check_file(out, PAIRS, judged)
    responses: list[Judged] = []
    with open_tools(config, feedback=False) as tools:
        here = IterationContext(tools, _unread(config), turn)
        for path in judged:
            read = _read(path, "judged responses").records
            _check_asked(path, here, [one.sample for one in read])
            responses += read
        explored = {one.sample.item for one in responses if one.draft is None}
        if alone := {one.sample.item for one in responses} - explored:
            raise UserError(
                f"Of {len(alone)} prompts there are refinements alone. Name the file of the judged "
                "responses that they rewrite too."
            )
        found, report = rlrf.pair(here, responses)
    written.write(jsonl_bytes(found))
    return report


def train_step(
    config: Config, pairs: Path, out: Path, *, model: str | None = None, turn: int = 1
) -> Checkpoint:
    """Train `model`, or else the configuration's, by DPO on the pairs in a file.

    Raises:
        UserError: the folder holds things already, there are no pairs, they repeat what is to be
            held out, or training fails.
    """
    NEW_FOLDER.check(out)
    found = _read(pairs, "pairs").records
    if not found:
        raise UserError(f"{pairs} holds no pairs to train on.")
    odd = sum(any(without_surrogates(text) != text for text in pair.texts) for pair in found)
    if odd:
        say(f"{odd} of {len(found)} pairs hold half of a surrogate pair: '?' is read in its place")
    with open_tools(config, feedback=False) as tools:
        here = IterationContext(tools, start(config, model), turn)
        texts = {text for pair in found for text in (pair.prompt, *pair.texts)}
        if repeated := leaks(texts, tools.held_out, config.gate.overlap):
            raise UserError(f"{pairs}: {repeated}. Take those pairs out.")
        with new_folder(out) as new:
            stages.fit(here, found, dpo, new)
            if here.logs.is_dir():
                shutil.copytree(here.logs, new / "logs")
    return checkpoint(out, here.candidate, here.policy)


def start(config: Config, model: str | None) -> Checkpoint:
    """The policy of a stage: `model`, which may be an adapter on the configuration's, or that."""
    if model is not None:
        folder = find(model)
        if (folder / CONFIG).exists() or not (folder / ADAPTER_CONFIG).exists():
            return Checkpoint(model, folder)
        return Checkpoint(model, find(config.model, config.revision), folder)
    return Checkpoint("M0", find(config.model, config.revision))


def _unread(config: Config) -> Checkpoint:
    """A policy for the stages that ask none: nothing is looked for, downloaded or loaded."""
    return Checkpoint("M0", Path(config.model))


def _read(path: Path, *wanted: str) -> Records[Any]:
    """The records in a file, which are of one of the kinds `wanted`."""
    rows = read_jsonl(path)
    held = next((name for name in KINDS if rows and _is(KINDS[name], rows[0][1])), wanted[0])
    if held not in wanted:
        raise UserError(f"{path} holds {held}; {' or '.join(wanted)} are expected.")
    records = [parse(KINDS[held], row, f"{path}, line {number}") for number, row in rows]
    return Records(records, file_digest(path))


def _is(kind: type[Record], row: Mapping[str, Any]) -> bool:
    fields = kind.model_fields
    needed = {name for name, field in fields.items() if field.is_required()}
    return needed <= row.keys() <= fields.keys()


def _check_asked(path: Path, turn: IterationContext, samples: Sequence[Sample]) -> None:
    """See that the samples answer what the turn asks."""
    asked = {(item.task, name) for name, item in turn.items.items()}
    if strangers := {(sample.task, sample.item) for sample in samples} - asked:
        raise UserError(
            f"{path} answers {len(strangers)} prompts that turn {turn.number} of the configuration "
            "does not ask. Name its turn with --turn, and the configuration that it was made by."
        )
