"""The gate works without the packages of any extra; what needs one of them says which."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from helpers.lightly import rlrf_lightly, run_lightly, write_evaluations
from packaging.requirements import Requirement

from harness.core.errors import UserError
from harness.core.extras import EXTRAS, PURPOSES, name_missing_extra

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"harness", "tasks", "rlrf"}


def imported_as(requirement: str) -> str:
    name = Requirement(requirement).name
    return {"pyyaml": "yaml"}.get(name, name.replace("-", "_"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("light")
    write_evaluations(place)
    return place


def test_extras_are_those_of_the_project() -> None:
    declared = {
        extra: {imported_as(line) for line in lines if not line.startswith("rlrf-harness")}
        for extra, lines in PROJECT["optional-dependencies"].items()
    }
    for together in ("all", "dev"):
        declared.pop(together)
    assert {extra: set(packages) for extra, packages in EXTRAS.items()} == declared
    assert PURPOSES.keys() == EXTRAS.keys()


def test_every_package_that_the_code_imports_is_a_dependency_or_of_an_extra() -> None:
    known = {imported_as(line) for line in PROJECT["dependencies"]}
    known |= {package for packages in EXTRAS.values() for package in packages}
    known |= OURS | set(sys.stdlib_module_names)
    # Of math-verify and of jinja2; in the library of Python 3.14.
    known |= {"latex2sympy2_extended", "markupsafe", "compression"}
    for path in [path for package in OURS for path in (ROOT / package).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.partition(".")[0] in known, f"{path}: {name}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("candidate", "code"), [("good", 0), ("bad", 1), ("unsure", 2), ("nowhere", 3)]
)
def test_the_gate_decides_without_extras(folder: Path, candidate: str, code: int) -> None:
    done = rlrf_lightly(folder, f"gate m0 {candidate} --junit gate.xml --markdown gate.md")
    assert done.returncode == code, done.stderr


@pytest.mark.slow
def test_boards_plans_simulations_and_pages_need_no_extra(folder: Path) -> None:
    for command in (
        "board add board m0 --name M0",
        "board add board good --name M1",
        "board verify board",
        *(f"board render board --format {kind}" for kind in ("markdown", "csv", "latex", "html")),
        "board export board --format model-card --name M0",
        "board exposure board",
        f"board verify {ROOT / 'leaderboards' / 'reference'}",
        "plan gsm8k --discordance 0.1",
        "plan just_eval --sd 0.6 --clusters 40 --icc 0.2",
        "simulate --loops 100",
        "slices m0 --by steps",
        "report --baseline m0 --candidate good --out page.html",
        "tasks",
        "doctor",
    ):
        done = rlrf_lightly(folder, command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    for command in ("certify --help", "noise --help", "status --help", "overlap --help"):
        assert rlrf_lightly(folder, command).returncode == 0


@pytest.mark.slow
def test_a_suite_asserts_without_extras(folder: Path) -> None:
    code = (
        "import rlrf; from rlrf.testing import assert_no_regression\n"
        "assert_no_regression('m0', 'good'); print(rlrf.gate('m0', 'bad').verdict)"
    )
    done = run_lightly(folder, code)
    assert (done.returncode, done.stdout.strip()) == (0, "fail"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("eval --model m --tasks gsm8k --out new", "eval"),
        ("gate m0 --model m --out new", "eval"),
        ("score mini_gsm8k m0 --out new", "eval"),
        ("judge check m0", "eval"),
        ("tasks check mini_gsm8k", "eval"),
        ("quickstart --out new", "train"),
        (f"train {ROOT / 'configs' / 'one_gpu.yaml'}", "train"),
        (f"doctor {ROOT / 'configs' / 'one_gpu.yaml'}", "train"),
        ("overlap m0 good", "overlap"),
        ("plan gsm8k --discordance 0.1 --svg plan.svg", "plots"),
        ("simulate --loops 100 --svg loops.svg", "plots"),
    ],
)
def test_a_command_that_needs_an_extra_says_which(folder: Path, command: str, extra: str) -> None:
    done = rlrf_lightly(folder, command)
    said = done.stdout + done.stderr
    assert done.returncode in (1, 3) and f"pip install 'rlrf-harness[{extra}]'" in said
    assert "unexpected" not in said and "Traceback" not in said


@pytest.mark.slow
def test_python_says_which_extra_too(folder: Path) -> None:
    for name, extra in (("evaluate", "eval"), ("score", "eval"), ("train", "train")):
        done = run_lightly(folder, f"import rlrf; rlrf.{name}")
        assert done.stderr.strip().endswith(f"pip install 'rlrf-harness[{extra}]'")


def test_a_package_of_no_extra_stays_an_import_error() -> None:
    with pytest.raises(ModuleNotFoundError), name_missing_extra():
        import no_such_package  # type: ignore[import-not-found]  # noqa: F401
    with pytest.raises(UserError, match=re.escape("'rlrf-harness[ray]'")), name_missing_extra():
        raise ModuleNotFoundError("No module named 'ray.util'", name="ray.util")
