"""The wheel is reproducible and sound, and decides from an environment that has nothing else."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.lightly import write_evaluations

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / ".venv-build" / "bin"
HEAVY = {"torch", "transformers", "trl", "lm_eval", "datasets", "ray", "scipy", "matplotlib"}
MAX_MIB = 150

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (TOOLS / "twine").exists(), reason="this needs make build-tools"),
]


def build(out: Path) -> Path:
    done = subprocess.run(
        [TOOLS / "python", "-m", "build", "--wheel", "--outdir", out, ROOT],
        env={"SOURCE_DATE_EPOCH": "1700000000", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and "hatchling" in done.stdout + done.stderr:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"))


def test_the_wheel_is_sound_and_the_same_each_time(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([TOOLS / "twine", "check", "--strict", wheel], check=True, capture_output=True)
    subprocess.run(
        [TOOLS / "check-wheel-contents", wheel], check=True, capture_output=True, cwd=ROOT
    )
    first, again = (hashlib.sha256(w.read_bytes()).digest() for w in (wheel, build(tmp_path)))
    assert first == again


def test_the_gate_decides_from_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    subprocess.run([sys.executable, "-m", "venv", clean], check=True)
    pip = [clean / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
    constraints = ["--constraint", ROOT / "constraints.txt"]
    installed = subprocess.run(
        [*pip, *constraints, wheel], capture_output=True, text=True, check=False
    )
    if "No matching distribution" in installed.stderr:
        pytest.skip("the package index cannot be reached")
    assert installed.returncode == 0, installed.stderr
    (site,) = clean.glob("lib/python*/site-packages")
    assert not HEAVY & {path.name for path in site.iterdir()}
    files = [path for path in clean.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) < MAX_MIB * 2**20
    write_evaluations(tmp_path)
    for candidate, code in (("good", 0), ("bad", 1), ("unsure", 2), ("nowhere", 3)):
        gate = [clean / "bin" / "rlrf", "gate", "m0", candidate]
        done = subprocess.run(gate, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
