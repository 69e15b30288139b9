"""The examples of configs/cluster: they parse, fit together, and what they start exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import rlrf.config
from rlrf.cli import cli

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "configs" / "cluster"
RUN = CLUSTER / "run.yaml"


@pytest.fixture(scope="module")
def config():
    return rlrf.config.load(RUN)


@pytest.fixture(scope="module")
def job():
    return yaml.safe_load((CLUSTER / "kuberay.yaml").read_text())["spec"]


def parsed(words: list[str]) -> dict[str, object]:
    """The options of an `rlrf` command line; raises where it is none."""
    assert words[0] == "rlrf"
    command = cli.commands[words[1]]
    return command.make_context(words[1], list(words[2:])).params


def options_of(*command: str) -> set[str]:
    """Every option that the help of a Ray command names."""
    ray = Path(sys.executable).parent / "ray"
    if not ray.exists():
        pytest.skip("Ray is not installed")
    shown = subprocess.run([ray, *command, "--help"], capture_output=True, text=True, check=True)
    return set(re.findall(r"--[a-z][a-z-]+", shown.stdout))


def test_the_configuration_is_for_a_cluster(config):
    assert config.executor.kind == "ray" and config.executor.address == "auto"
    assert config.train.launch.processes == 8
    assert config.artefacts is not None


def directives() -> dict[str, str]:
    text = (CLUSTER / "slurm.sh").read_text()
    return dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE))


def test_as_many_engines_as_the_examples_have_gpus(config, job):
    wanted = config.executor.engines * config.executor.gpus
    slurm = directives()
    assert int(slurm["nodes"]) * int(slurm["gpus-per-node"]) == wanted
    cluster = job["rayClusterSpec"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    found = [
        pod.get("replicas", 1)
        * int(pod["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        for pod in pods
    ]
    assert sum(found) == wanted
    assert int(slurm["cpus-per-task"]) >= 8 * config.executor.cpus


def started(tmp_path: Path, code: int) -> tuple[int, dict[str, list[str]]]:
    """Run the body of slurm.sh where `srun`, `ray` and `rlrf` write down what they are asked.

    Stand-ins: `srun` and `ray` run what they are given here, `rlrf` ends with `code`.
    """
    here = {
        "scontrol": 'if [ "$1" = show ]; then printf "node7\\nnode8\\n"; fi',
        "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
        "ray": 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
        "rlrf": f"exit {code}",
    }
    for name, body in here.items():
        script = tmp_path / name
        script.write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/{name}.asked\n{body}\n')
        script.chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "64",
    }
    done = subprocess.run(
        ["bash", CLUSTER / "slurm.sh"],
        env=os.environ | slurm | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    asked = {
        name: (tmp_path / f"{name}.asked").read_text().splitlines()
        for name in here
        if (tmp_path / f"{name}.asked").exists()
    }
    return done.returncode, asked


@pytest.mark.slow
def test_the_slurm_script_starts_a_run_on_its_first_machine(tmp_path):
    code, asked = started(tmp_path, 0)
    assert code == 0
    assert asked["scontrol"] == ["show hostnames node[7-8]"]
    (train,) = asked["rlrf"]
    options = parsed(["rlrf", *shlex.split(train)])
    assert str(options["config"]).endswith("configs/cluster/run.yaml")
    assert options["seconds"]
    ray, _, command = asked["ray"][0].partition(" -- ")
    assert command == f"rlrf {train}"
    assert "--address node7:6379 --min-nodes 2" in ray
    wanted = {word.partition("=")[0] for word in ray.split() if word.startswith("--")}
    assert wanted <= options_of("symmetric-run") | options_of("start")


@pytest.mark.parametrize(("code", "again"), [(75, True), (0, False), (3, False), (143, False)])
def test_a_run_that_is_out_of_time_goes_back_into_the_queue(tmp_path, code, again):
    ended, asked = started(tmp_path, code)
    assert ended == code
    assert ("requeue 17" in asked["scontrol"]) is again
    assert "requeue" in directives()


def test_the_deadline_is_before_slurm_s_own(tmp_path):
    hours, minutes, _ = map(int, directives()["time"].split(":"))
    _, asked = started(tmp_path, 0)
    deadline = parsed(["rlrf", *shlex.split(asked["rlrf"][0])])["seconds"]
    assert 0 < deadline < 3600 * hours + 60 * minutes


def test_the_kubernetes_job_runs_a_command_that_exists(job):
    options = parsed(shlex.split(job["entrypoint"]))
    assert str(options["config"]).startswith("/shared/")
    assert str(options["out"]).startswith("/shared/")


def test_every_pod_mounts_what_it_declares(job):
    cluster = job["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        spec = group["template"]["spec"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        mounts = {
            mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]
        }
        assert mounts.keys() == volumes
        assert mounts["shared"] == "/shared"


@pytest.mark.slow
def test_ray_is_asked_for_what_it_knows():
    page = (ROOT / "docs" / "scale.md").read_text()
    for command in ("ray start", "ray job submit"):
        lines = [line for line in page.splitlines() if line.startswith(command)]
        assert lines
        known = options_of(*command.split()[1:])
        for line in lines:
            ours = line.partition(" -- ")[0]
            assert set(re.findall(r"--[a-z][a-z-]+", ours)) <= known
