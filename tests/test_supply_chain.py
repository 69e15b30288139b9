"""What is run and installed is named exactly: actions by commit, packages by version."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "action.yml", *sorted((ROOT / ".github").rglob("*.yml"))]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
WORKFLOWS = [path for path in FILES if path.parent.name == "workflows"]
CYCLONEDX = ROOT / ".venv-supply" / "bin" / "cyclonedx-py"


def used() -> list[tuple[Path, str]]:
    """What stands behind each `uses:` of ours, and of the pages that show how."""
    return [
        (path, line)
        for path in [*FILES, *PAGES]
        for line in re.findall(r"^\s*(?:-\s+)?uses:\s*(.+)$", path.read_text(), re.MULTILINE)
    ]


def test_actions_are_pinned_by_commit_with_the_version_beside_it() -> None:
    commits: dict[str, set[str]] = {}
    for path, line in used():
        if line.startswith(("./", "OWNER/")):
            continue
        found = re.fullmatch(r"([\w.-]+/[\w./-]+)@([0-9a-f]{40} # v\d+\.\d+\.\d+)", line)
        assert found, f"{path}: {line}"
        commits.setdefault(found[1], set()).add(found[2])
    assert {"actions/checkout", "actions/setup-python", "actions/upload-artifact"} <= commits.keys()
    assert all(len(versions) == 1 for versions in commits.values()), "one commit everywhere"


def test_the_pages_show_our_own_action_by_commit() -> None:
    own = [line for _, line in used() if line.startswith("OWNER/")]
    assert own and all(line.startswith("OWNER/rlrf-harness@COMMIT") for line in own)


def test_workflows_may_read_and_nothing_else() -> None:
    for path in WORKFLOWS:
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {"contents": "read"}, path
        asked = {name: job.get("permissions") for name, job in workflow["jobs"].items()}
        # Only the job that publishes shows PyPI who it is; it runs no script.
        trusted = {"publish"} if path.name == "release.yml" else set()
        assert {name for name, more in asked.items() if more} == trusted, path
        for name in trusted:
            assert asked[name] == {"id-token": "write"}
            assert all("run" not in step for step in workflow["jobs"][name]["steps"])
        # Where `on` is read as true: it is YAML 1.1.
        assert "pull_request_target" not in workflow[True], path


def pinned() -> dict[str, str]:
    """What `constraints.txt` says: name -> version."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = re.fullmatch(r"([\w.-]+)==([\w.!]+)", line).groups()  # type: ignore[union-attr]
            found[canonicalize_name(name)] = version
    return found


def needed() -> set[str]:
    """What `make setup` installs, with the dependencies of all that is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    direct = [*project["dependencies"], *extras["all"], *extras["dev"]]
    for text in direct:
        if text.startswith("rlrf-harness["):
            direct += [line for extra in Requirement(text).extras for line in extras[extra]]
    direct = [text for text in direct if not text.startswith("rlrf-harness[")]
    found: set[str] = set()
    left = [("", "")]
    while left:
        name, extra = left.pop()
        for text in requirements(name) if name else direct:
            one = Requirement(text)
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                wanted = [(one.name, each) for each in (one.extras or {""})]
                if canonicalize_name(one.name) not in found:
                    found.add(canonicalize_name(one.name))
                    left += [(one.name, ""), *wanted]
    return found


def requirements(name: str) -> list[str]:
    """What a package requires; nothing where it is not installed."""
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def installed(name: str) -> bool:
    return any(importlib.metadata.distributions(name=name))


def test_all_that_the_package_needs_has_its_exact_version_in_the_constraints() -> None:
    found = needed()
    assert {"torch", "transformers", "huggingface-hub"} <= found
    assert found - pinned().keys() == set()


def test_a_package_that_the_index_knows_nothing_of_fails_the_audit() -> None:
    # Without this pip-audit passes on a mirror that has no vulnerability data at all.
    recipe = (ROOT / "Makefile").read_text().partition("\naudit:")[2].partition("\n\n")[0]
    assert "pip-audit --strict " in recipe


def test_the_audit_and_the_bill_are_made_by_exact_versions() -> None:
    lines = (ROOT / "environments" / "supply.txt").read_text().splitlines()[1:]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert {"pip_audit", "cyclonedx-bom"} <= {line.partition("==")[0] for line in lines}


@pytest.mark.slow
@pytest.mark.skipif(not CYCLONEDX.exists(), reason="make supply is what this needs")
def test_the_bill_of_materials_names_what_is_installed(tmp_path: Path) -> None:
    out = tmp_path / "sbom.json"
    options = ["--output-reproducible", "--validate", "--output-format", "JSON"]
    subprocess.run(
        [
            *(CYCLONEDX, "environment", "--pyproject", ROOT / "pyproject.toml"),
            *(*options, "--output-file", out, sys.executable),
        ],
        check=True,
        capture_output=True,
    )
    bill = json.loads(out.read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == (
        "CycloneDX",
        "rlrf-harness",
    )
    named = {canonicalize_name(one["name"]): one["version"] for one in bill["components"]}
    here = {name for name in needed() if installed(name)}
    assert here <= named.keys()
    for name in here:
        assert named[name] == importlib.metadata.version(name)
