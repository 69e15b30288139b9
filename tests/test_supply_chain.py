"""What is run and installed is named exactly: actions by commit, packages by version."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
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
        assert all("permissions" not in job for job in workflow["jobs"].values()), path
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
    """The package's dependencies and theirs, as they are installed here."""
    found: set[str] = set()
    left = [("rlrf-harness", "")]
    while left:
        name, extra = left.pop()
        for text in importlib.metadata.requires(name) or []:
            one = Requirement(text)
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                wanted = [(one.name, each) for each in (one.extras or {""})]
                if canonicalize_name(one.name) not in found:
                    found.add(canonicalize_name(one.name))
                    left += [(one.name, ""), *wanted]
    return found


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
    assert needed() <= named.keys()
    for name in needed():
        assert named[name] == importlib.metadata.version(name)
