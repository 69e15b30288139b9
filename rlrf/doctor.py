"""Check what is installed, and say what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from pydantic import Field

import tasks
from harness.core.errors import UserError
from harness.core.extras import EXTRAS, PURPOSES
from harness.core.schema import Record

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "rlrf-harness"
ENOUGH_DISK_GIB = 2.0
ENOUGH_MEMORY_GIB = 4.0
GIB = 2**30

Said = str | tuple[str, str]
"""What a check found, and optionally advice although nothing would fail."""

T = TypeVar("T")
P = ParamSpec("P")


class Finding(Record):
    """The result of one check."""

    name: str
    found: str
    ok: bool = Field(description="False: something necessary is missing or would fail")
    advice: str = ""


@dataclass
class Findings:
    """Collect the findings of checks; a `UserError` becomes a failed finding."""

    list: list[Finding] = field(default_factory=list)

    def load(
        self, name: str, check: Callable[P, tuple[T, Said]], *args: P.args, **kwargs: P.kwargs
    ) -> T | None:
        """Run a check and return what it loads; None if it fails."""
        try:
            value, said = check(*args, **kwargs)
        except UserError as error:
            self.list.append(Finding(name=name, found="", ok=False, advice=str(error)))
            return None
        found, advice = said if isinstance(said, tuple) else (said, "")
        self.list.append(Finding(name=name, found=found, ok=True, advice=advice))
        return value

    def check(self, name: str, check: Callable[P, Said], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run a check that loads nothing."""
        self.load(name, lambda: (None, check(*args, **kwargs)))


def examine() -> list[Finding]:
    """Check the interpreter, the libraries, the machine and the optional parts."""
    return [_python(), *_libraries(), *_machine(), *_optional()]


def lines(findings: list[Finding]) -> str:
    """Show one finding per line, with advice below it."""
    width = max(len(finding.name) for finding in findings)
    shown = []
    for one in findings:
        shown.append(f"{'ok  ' if one.ok else 'FAIL'}  {one.name:{width}}  {one.found}".rstrip())
        if one.advice:
            shown.append(f"{'':{width + 6}}  -> {one.advice}")
    wrong = sum(not finding.ok for finding in findings)
    verdict = f"{wrong} failed, see above." if wrong else "Everything necessary is installed."
    return "\n".join([*shown, "", verdict])


def _python() -> Finding:
    return Finding(
        name="python", found=f"{platform.python_version()}, {platform.platform()}", ok=True
    )


def _libraries() -> list[Finding]:
    """Check that the version of every dependency is in the required range.

    What an extra needs may be missing: the finding then says what the extra is for.
    """
    findings = []
    missing: dict[str, list[str]] = {extra: [] for extra in EXTRAS}
    for wanted, extra in _requirements():
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
            if extra:
                missing[extra].append(wanted.name)
                continue
        ok = version != "not installed" and wanted.specifier.contains(version, prereleases=True)
        advice = "" if ok else f"pip install '{wanted.name}{wanted.specifier}'"
        findings.append(Finding(name=wanted.name, found=version, ok=ok, advice=advice))
    for extra, names in missing.items():
        if names:
            advice = f"{PURPOSES[extra]}: pip install '{DISTRIBUTION}[{extra}]'"
            found = f"without {', '.join(names)}"
            findings.append(Finding(name=f"extra {extra}", found=found, ok=True, advice=advice))
    return findings


def _requirements() -> list[tuple[Requirement, str]]:
    """Return what is required, each with the extra that asks for it, or ""."""
    from packaging.requirements import Requirement

    required = []
    for line in importlib.metadata.requires(DISTRIBUTION) or []:
        wanted = Requirement(line)
        asking = [
            extra
            for extra in ("", *EXTRAS)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra})
        ]
        if asking and wanted.name != DISTRIBUTION:
            required.append((wanted, asking[0]))
    return required


def _machine() -> list[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return [
        _cpu(),
        Finding(
            name="memory",
            found=f"{memory:.1f} GiB",
            ok=memory >= ENOUGH_MEMORY_GIB,
            advice="" if memory >= ENOUGH_MEMORY_GIB else f"{ENOUGH_MEMORY_GIB:.0f} GiB are needed",
        ),
        Finding(
            name="disk",
            found=f"{free:.1f} GiB free here",
            ok=free >= ENOUGH_DISK_GIB,
            advice="" if free >= ENOUGH_DISK_GIB else "free some, or work in another folder",
        ),
        _gpu(),
    ]


def _cpu() -> Finding:
    cores = f"{os.cpu_count()} cores"
    try:
        from harness.engines.loading import INSTRUCTIONS, has_instructions

        slow = [dtype for dtype in INSTRUCTIONS if not has_instructions(dtype)]
    except ImportError:
        return Finding(name="cpu", found=cores, ok=True)
    if not slow:
        return Finding(name="cpu", found=f"{cores}, instructions for bfloat16 and float16", ok=True)
    return Finding(
        name="cpu",
        found=f"{cores}, no instructions for {' and '.join(slow)}",
        ok=True,
        advice="without a GPU, dtype auto computes such weights as float32 where memory allows",
    )


def _gpu() -> Finding:
    try:
        import torch
    except ImportError:
        return Finding(name="gpu", found="unknown without torch", ok=True)
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return Finding(
        name="gpu",
        found=", ".join(f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB" for gpu in found) or "none",
        ok=True,
        advice="" if found else "the quickstart needs none; larger models need torch with CUDA",
    )


def _optional() -> list[Finding]:
    m0 = Path(__file__).parent / "quickstart" / "m0"
    here = any(m0.glob("*.safetensors"))
    vllm = importlib.util.find_spec("vllm") is not None
    offline = bool(os.environ.get("HF_HUB_OFFLINE"))
    return [
        Finding(
            name="seed policy",
            found="rlrf/quickstart/m0" if here else "none",
            ok=here,
            advice="" if here else "install the package again, or run make m0 in a checkout",
        ),
        Finding(
            name="vllm",
            found="here, for engine vllm" if vllm else "none; engine hf does without",
            ok=True,
            advice="" if vllm else "faster on a GPU, see docs/engines.md",
        ),
        Finding(
            name="benchmarks",
            found=f"{len(tasks.names())} of this package and of plugins",
            ok=True,
            advice=" ".join(tasks.problems()),
        ),
        Finding(
            name="hub",
            found="switched off by HF_HUB_OFFLINE" if offline else "asked when a model is not here",
            ok=True,
        ),
    ]


def gib(size: float) -> str:
    """Format a number of bytes."""
    return f"{size / GIB:,.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:,.1f} MiB"
