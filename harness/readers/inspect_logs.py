"""Read the logs of Inspect (inspect_ai): `.eval`, a zip file of JSON, and `.json`.

Epochs are repeats, and each scorer is a metric; a scorer that gives several values is a metric per
value, SCORER.NAME. Grades are numbers as for Inspect's `accuracy`: C 1, P 0.5, I and N 0. Samples
are compared by input, choices and target. Newer `.eval` files are compressed with zstd, which
Python unpacks from 3.14 on; before, the package `zstandard` or `pyarrow` does.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from harness.core.errors import UserError
from harness.core.text import quote, shorten
from harness.readers.answers import (
    NOT_TOLD,
    UNIT,
    Answer,
    MetricInfo,
    Results,
    cluster_fields,
    mapping,
)
from harness.readers.json_stream import JsonStream, decoded, first_keys, open_bytes, open_json
from harness.readers.reader import FileReader, Selection

TOOL = "inspect"
MAX_UNPACKED_BYTES = 8 * 1024**3  # of all samples of a log
MAX_PACKED_BYTES = 256 * 1024**2  # of one sample
MAX_MEMBERS = 1_000_000
LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
MAX_DIGITS = 40  # of a number that is written as text
_ZSTD = 93  # number of the compression in zip files
_HEADER, _SAMPLES, _START = "header.json", "samples/", "_journal/start.json"
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_KEPT = {"id", "epoch", "input", "choices", "target", "scores", "error", "metadata", "output"}
# Settings of generation that change how fast or how often a model is asked, not what it answers.
_MACHINE = {
    "attempt_timeout", "batch", "cache", "cache_prompt", "max_connections", "max_retries", "seed",
    "timeout",
}  # fmt: skip


class Unpacker(Protocol):
    """A file that unpacks what is read."""

    def read(self, size: int, /) -> bytes: ...


def recognises(path: Path) -> bool:
    if path.name.endswith(".eval"):
        return True
    return {"version", "status", "eval"} <= first_keys(path)


def read(path: Path, selection: Selection) -> Iterable[Results]:
    """Read a log, which is of one task and one model.

    Raises:
        UserError: the log is damaged, unfinished or too large, or tells no samples.
    """
    if path.name.endswith(".eval"):
        return [_read_zip(path)]
    return [_read_json(path)]


# ---- the two formats --------------------------------------------------------------------------


def _read_json(path: Path) -> Results:
    header: dict[str, Any] = {}
    with open_json(path) as log:
        for key in log.members():
            if key != "samples":
                header |= {key: log.value()} if key in _HEADER_KEYS else {}
        log.end()
    return _results(path, header, lambda: _json_samples(path))


_HEADER_KEYS = {"status", "eval", "plan", "results", "error"}


def _json_samples(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    with open_json(path) as log:
        for key in log.members():
            if key == "samples" and log.kind() == "[":
                for number, _ in enumerate(log.elements(), 1):
                    yield _sample(log), f"sample {number}"


def _read_zip(path: Path) -> Results:
    with open_bytes(path) as file, _archive(file, path) as archive:
        names = set(archive.namelist())
        if _HEADER not in names:
            started = " It was not finished: the evaluation was stopped." if _START in names else ""
            raise UserError(
                f"{path} is not a whole log of Inspect: it has no {_HEADER}.{started} "
                "Finish it with `inspect eval-retry`, or evaluate again."
            )
        header = _open_member(archive, file, archive.getinfo(_HEADER), path)
        stream = JsonStream(decoded(header), f"{path}, {_HEADER}")
        value = stream.value()
        stream.end()
    if not isinstance(value, dict):
        raise UserError(f"{path}, {_HEADER}: an object is expected.")
    return _results(path, value, lambda: _zip_samples(path))


def _zip_samples(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    left = MAX_UNPACKED_BYTES
    with open_bytes(path) as file, _archive(file, path) as archive:
        for info in archive.infolist():
            if info.filename.startswith(_SAMPLES) and info.filename.endswith(".json"):
                where = shorten(info.filename)
                member = _Limited(_open_member(archive, file, info, path), path, left)
                stream = JsonStream(decoded(member), f"{path}, {where}")
                sample = _sample(stream)
                stream.end()
                yield sample, where
                left = member.left


def _archive(file: IO[bytes], path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(
            f"{path} is not a whole log of Inspect ({error}): it was cut short, or is of another "
            "kind. Copy it again."
        ) from error
    if len(archive.infolist()) > MAX_MEMBERS:
        raise UserError(f"{path} holds more than {MAX_MEMBERS:,} files, which are not read.")
    return archive


def _open_member(
    archive: zipfile.ZipFile, file: IO[bytes], info: zipfile.ZipInfo, path: Path
) -> Any:
    try:
        if info.compress_type != _ZSTD:
            return _Explained(archive.open(info), path, zlib.error)
        if info.compress_size > MAX_PACKED_BYTES:
            raise UserError(
                f"{path}, {shorten(info.filename)}: larger than {MAX_PACKED_BYTES:,} bytes packed, "
                "which is not read."
            )
        file.seek(info.header_offset)
        local = file.read(_LOCAL_HEADER.size)
        fields = _LOCAL_HEADER.unpack(local)
        file.seek(info.header_offset + _LOCAL_HEADER.size + fields[-2] + fields[-1])
        unpacked, fault = _unpack_zstd(file.read(info.compress_size), path)
        return _Explained(_Checked(unpacked, info.CRC), path, fault)
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, RuntimeError) as error:
        raise UserError(f"{path}, {shorten(info.filename)}: damaged ({error}).") from error


def _unpack_zstd(packed: bytes, path: Path) -> tuple[Unpacker, type[Exception]]:
    """Return what unpacks `packed`, and the error that it raises where that is damaged."""
    source = io.BytesIO(packed)
    try:
        from compression import zstd

        return zstd.ZstdFile(source), zstd.ZstdError
    except ImportError:
        pass
    try:
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(source), zstandard.ZstdError
    except ImportError:
        pass
    try:
        import pyarrow

        return pyarrow.CompressedInputStream(source, "zstd"), pyarrow.ArrowException
    except ImportError as error:
        raise UserError(
            f"{path} is compressed with zstd, which this Python cannot unpack. Install what can, "
            "pip install 'rlrf-harness[inspect]', or write the log as JSON: inspect log convert "
            "--to json."
        ) from error


class _Checked:
    """A file whose checksum is compared at its end, as `zipfile` does for what it unpacks."""

    def __init__(self, file: Unpacker, expected: int) -> None:
        self._file, self._expected, self._sum = file, expected, 0

    def read(self, size: int, /) -> bytes:
        block = self._file.read(size)
        self._sum = zlib.crc32(block, self._sum)
        if not block and self._sum != self._expected:
            raise zipfile.BadZipFile("the checksum differs")
        return block


class _Explained:
    """A file whose errors are sentences about the log."""

    def __init__(self, file: Unpacker, path: Path, fault: type[Exception]) -> None:
        self._file, self._path = file, path
        self._faults = (fault, zipfile.BadZipFile, OSError, EOFError, ValueError)

    def read(self, size: int, /) -> bytes:
        try:
            return bytes(self._file.read(size))
        except self._faults as error:
            raise UserError(f"{self._path} is damaged or cut short ({error}).") from error


class _Limited:
    """A file of which at most `left` bytes more are read."""

    def __init__(self, file: Unpacker, path: Path, left: int) -> None:
        self._file, self._path, self.left = file, path, left

    def read(self, size: int, /) -> bytes:
        block = self._file.read(size)
        self.left -= len(block)
        if self.left < 0:
            raise UserError(
                f"{self._path} unpacks to more than {MAX_UNPACKED_BYTES / 1024**3:g} GiB, which is "
                "not read. Split the log, or evaluate fewer samples."
            )
        return block


# ---- what a log says --------------------------------------------------------------------------


def _sample(stream: JsonStream) -> dict[str, Any]:
    """Read what is compared of a sample, without its transcript."""
    if stream.kind() != "{":
        raise UserError(f"{stream.where}: a sample is an object.")
    return {key: stream.value() for key in stream.members() if key in _KEPT}


def _results(path: Path, header: Mapping[str, Any], samples: Any) -> Results:
    told = mapping(header.get("eval"))
    status = header.get("status")
    task = told.get("task")
    if not isinstance(task, str):
        raise UserError(f"{path} is not a log of Inspect: it names no task.")
    if status != "success":
        error = mapping(header.get("error")).get("message")
        raise UserError(
            f"{path} is the log of an evaluation that ended with status {quote(status)}"
            f"{f' ({shorten(error)})' if error else ''}, so that samples are missing. Finish it "
            "with `inspect eval-retry`, or evaluate again."
        )
    scorers = _scorers(header)
    metrics: dict[str, MetricInfo] = {}
    packages = mapping(told.get("packages"))
    results = Results(
        tool=TOOL,
        source=str(path),
        task=task,
        model=str(told.get("model") or NOT_TOLD),
        version=str(packages.get("inspect_ai") or NOT_TOLD),
        answers=(),
        metrics=metrics,
        settings=_settings(header),
        scorer=", ".join(scorers.values()) or None,
        task_version=str(told.get("task_version", NOT_TOLD)),
    )
    total = mapping(header.get("results")).get("total_samples")
    results.answers = _answers(_whole(samples(), total, path), list(scorers), metrics)
    return results


def _whole(
    samples: Iterable[tuple[dict[str, Any], str]], total: Any, path: Path
) -> Iterator[tuple[dict[str, Any], str]]:
    """Pass samples on; refuse a log that lacks some of its `total`."""
    count = 0
    for sample in samples:
        count += 1
        yield sample
    if isinstance(total, int) and count != total:
        raise UserError(
            f"{path} has {count:,} samples and says that {total:,} were evaluated. Evaluate with "
            "--log-samples, and take the log as it was written."
        )


def _scorers(header: Mapping[str, Any]) -> dict[str, str]:
    """Return each scorer with its options, as the log says."""
    scorers: dict[str, str] = {}
    scored = mapping(header.get("results")).get("scores")
    for entry in scored if isinstance(scored, list) else []:
        if isinstance(entry, dict):
            name = str(entry.get("scorer") or entry.get("name"))
            options = ", ".join(f"{k}={v}" for k, v in sorted(mapping(entry.get("params")).items()))
            scorers.setdefault(name, shorten(f"{name}({options})"))
    return scorers


def _settings(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return how answers were made, on which two logs have to agree."""
    told, plan = mapping(header.get("eval")), mapping(header.get("plan"))
    generation = mapping(told.get("model_generate_config")) | mapping(plan.get("config"))
    steps = plan.get("steps")
    solvers = [
        f"{step.get('solver')}({_options(step.get('params'))})"
        for step in (steps if isinstance(steps, list) else [])
        if isinstance(step, dict)
    ]
    config = mapping(told.get("config"))
    return {
        "temperature": "the model's default",
        "max_tokens": "the model's default",
        **{k: v for k, v in generation.items() if k not in _MACHINE and v is not None},
        "solver": " ".join(solvers),
        "task_args": _options(told.get("task_args")),
        "message_limit": config.get("message_limit"),
        "token_limit": config.get("token_limit"),
        "epochs_reducer": config.get("epochs_reducer"),
    }


def _options(value: Any) -> str:
    return ", ".join(f"{name}={shorten(v)}" for name, v in sorted(mapping(value).items()))


def _answers(
    samples: Iterable[tuple[dict[str, Any], str]],
    scorers: list[str],
    metrics: dict[str, MetricInfo],
) -> Iterator[Answer]:
    """Read the answers, and define each metric when its first value is seen.

    A scorer that gave a sample no value leaves it unscored, with Inspect's reason.
    """
    read: list[tuple[Answer, dict[str, str]]] = []
    names: dict[str, dict[str, None]] = {scorer: {} for scorer in scorers}
    for sample, where in samples:
        answer = _answer(sample, where)
        error = mapping(sample.get("error")).get("message")
        reasons = {"": f"the sample failed: {error}" if error else "Inspect gave no score"}
        for scorer, score in mapping(sample.get("scores")).items():
            value = mapping(score).get("value")
            parts = value if isinstance(value, dict) else {"": value}
            reasons[scorer] = str(mapping(score).get("reason") or "Inspect gave no value")
            for part, graded in parts.items():
                name = f"{scorer}.{part}" if part else scorer
                if _grade(answer, name, graded, metrics):
                    names.setdefault(scorer, {})[name] = None
        read.append((answer, reasons))
    for answer, reasons in read:
        for scorer, known in names.items():
            for name in known or [scorer]:
                if name not in answer.values:
                    answer.unscored.setdefault(name, reasons.get(scorer, reasons[""]))
        yield answer


def _answer(sample: Mapping[str, Any], where: str) -> Answer:
    identity, epoch = sample.get("id"), sample.get("epoch")
    if not isinstance(identity, str | int) or not isinstance(epoch, int):
        raise UserError(f"Inspect's {where} has no id or no epoch, as every sample has.")
    reference: dict[str, Any] = {"target": sample.get("target")}
    if sample.get("choices"):
        reference["choices"] = sample["choices"]
    response, reason = _response(mapping(sample.get("output")))
    return Answer(
        name=str(identity),
        where=where,
        prompt=_input(sample.get("input")),
        reference=reference,
        repeat=epoch - 1,
        response=response,
        finish_reason=reason,
        document={"id": identity} | cluster_fields(sample.get("metadata")),
    )


def _input(value: Any) -> str:
    """Return the input as text: a text, or messages without their random ids."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        kept = [{"role": m.get("role"), "content": m.get("content")} for m in map(mapping, value)]
        return json.dumps(kept, sort_keys=True, ensure_ascii=False)
    return json.dumps(value, sort_keys=True)


def _response(output: Mapping[str, Any]) -> tuple[str | None, Any]:
    choices = output.get("choices")
    choice = mapping(choices[0]) if isinstance(choices, list) and choices else {}
    content = mapping(choice.get("message")).get("content")
    if isinstance(content, list):
        content = "".join(str(mapping(part).get("text", "")) for part in content)
    reasons = {"stop": "stop", "max_tokens": "length"}
    reason = reasons.get(str(choice.get("stop_reason")))
    return (content if isinstance(content, str) else None), reason


def _grade(answer: Answer, name: str, value: Any, metrics: dict[str, MetricInfo]) -> bool:
    """Enter a graded value: a number, or the reason why it is none; False if there is no value."""
    number = _number(value)
    if number is None and value is not None:
        shown = quote(json.dumps(value))
        answer.unscored[name] = f"{shown} is neither a grade of Inspect nor a number"
    elif number is None or not math.isfinite(number):
        return False
    else:
        answer.values[name] = number
    metrics.setdefault(name, MetricInfo())
    if isinstance(value, str) and value in LETTERS:
        metrics[name] = MetricInfo(*UNIT)
    return True


def _number(value: Any) -> float | None:
    """Read a value as Inspect's `accuracy` does; None if it is no grade and no number."""
    if isinstance(value, str):
        known = LETTERS.get(value, WORDS.get(value.lower()))
        if known is not None or len(value) > MAX_DIGITS:
            return known
    try:
        return float(value) if isinstance(value, int | float | str) else None
    except (ValueError, OverflowError):
        return None


READER = FileReader(TOOL, (".eval", ".json"), recognises, read)
