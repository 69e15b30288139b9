"""Engines on a Ray cluster of several nodes on this machine: order, back-pressure, what is lost."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import UserError
from harness.engines import Completion, Pair, Sampling, resume, seed_of
from harness.engines import cluster as clusters
from harness.engines.cluster import Cluster, ClusterEngine
from harness.engines.resume import ResumableEngine

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # else engines starve where tests share cores
ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.slow

PROMPTS = [f"What is {n} plus 4?" for n in range(24)]
SAMPLING = Sampling(temperature=1.0, n=3, seed=5)


class Faulty:
    """Engines without a model, and their loader: a fake, to provoke faults in real actors.

    What is loaded is "FAULT:FOLDER". Answers are those that the seed names. A prompt with a colon
    does something first: "die once:F" and "die:F" kill the process, the former unless FOLDER has
    the file F, which it gets; "wait for:F" waits until it has such a file.
    """

    name, model_id, context = "faulty", "faulty", 64
    folder = Path()

    def load(self, what: str) -> Faulty:
        fault, _, folder = what.partition(":")
        self.folder = Path(folder)
        self.model_digest = str(os.getpid()) if fault == "differs" else fault
        self.note("loaded", fault)
        if fault == "refused":
            raise UserError("The model is refused. Take another.")
        if fault == "broken":
            raise KeyError("a fault of ours")
        if fault == "dies":
            os._exit(1)
        return self

    def release(self) -> None:
        self.note("released", "")

    def close(self) -> None:
        self.note("closed", "")

    def note(self, file: str, line: str) -> None:
        with (self.folder / file).open("a") as log:
            log.write(f"{os.getpid()} {line}\n")

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_done: Any = None
    ) -> list[list[Completion]]:
        for prompt in prompts:
            self.note("asked", prompt)
            self.do(*prompt.split(":"))
        return answers(prompts, sampling)

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        """A context of 0 kills the process, once."""
        self.note("scored", str(pairs))
        if pairs[0][0] == [0]:
            self.do("die once", "dead")
        return likelihoods(pairs)

    def do(self, verb: str, name: str = "") -> None:
        file = self.folder / name
        while verb == "wait for" and not list(self.folder.glob(name)):
            time.sleep(0.01)
        if verb == "say":
            print(name, file=sys.stderr)
        if verb == "die" or (verb == "die once" and not file.exists()):
            file.touch()
            os._exit(1)


def answers(prompts: Sequence[str], sampling: Sampling = SAMPLING) -> list[list[Completion]]:
    """What a faulty engine answers."""
    return [
        [
            Completion(str(seed_of(sampling, prompt, j)), "stop", len(prompt), 1)
            for j in range(sampling.n)
        ]
        for prompt in prompts
    ]


def likelihoods(pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
    """What a faulty engine finds likely, which depends on what is asked together."""
    return [(-float(sum(after)), before == pairs[0][0]) for before, after in pairs]


# The actors find no tests to import.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """The address of a cluster of three nodes; its head has no CPU for engines, the others one."""
    from ray.cluster_utils import Cluster as Nodes

    sizes = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    found = Nodes(initialize_head=True, head_node_args=sizes | {"num_cpus": 0})
    for _ in range(2):
        found.add_node(num_cpus=1, **sizes)
    yield found.address
    found.shutdown()


@pytest.fixture(scope="module")
def cluster(nodes: str) -> Iterator[Cluster]:
    """Three engines, of which two have room."""
    found = Cluster(Faulty(), engines=3, address=nodes, wait=60)
    yield found
    found.close()


def engine(cluster: Cluster, folder: Path, fault: str = "none") -> ClusterEngine:
    return ClusterEngine(cluster, f"{fault}:{folder}", tokenizer=None, folders=[folder])


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def asked(folder: Path) -> list[str]:
    """The prompts that engines were asked."""
    return [line.partition(" ")[2] for line in lines(folder / "asked")]


def processes(folder: Path, file: str = "asked") -> set[str]:
    """The actors that wrote into `file`."""
    return {line.partition(" ")[0] for line in lines(folder / file)}


def alive(ids: set[str]) -> set[str]:
    """The processes that exist; a busy node may have ended an idle actor, whose memory is free."""
    return {process for process in ids if Path(f"/proc/{process}").exists()}


class Watched(Sequence[list[str]]):
    """Parts of one prompt each, that know which of them were taken."""

    def __init__(self, prompts: Sequence[str]) -> None:
        self.prompts, self.taken = prompts, set[int]()

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, place: Any) -> Any:
        self.taken.add(place)
        return [self.prompts[place]]


def test_answers_are_those_of_one_engine_in_order(cluster: Cluster, tmp_path: Path) -> None:
    done: list[int] = []
    found = engine(cluster, tmp_path).generate(PROMPTS, SAMPLING, done.append)
    assert found == answers(PROMPTS)
    assert sorted(asked(tmp_path)) == sorted(PROMPTS)
    assert sum(done) == len(PROMPTS) * SAMPLING.n
    assert len(done) == 6  # engines x in_flight
    assert engine(cluster, tmp_path).generate([], SAMPLING) == []


def test_engines_work_at_once_and_no_more_is_handed_out_than_they_may_have(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # What the first waits for, the second engine does: one alone would wait for ever.
    prompts = ["wait for:dead", *PROMPTS[:3], "die once:dead", *PROMPTS[3:]]
    parts = Watched(prompts)
    stream = engine(cluster, tmp_path).stream(parts, SAMPLING)
    first, _ = next(stream)
    assert len(parts.taken) <= 1 + 2 * 2
    rest = dict(stream)
    assert sorted([first, *rest]) == list(range(len(prompts)))
    # What the engine that died had finished was not asked again.
    again = {prompt for prompt in prompts if asked(tmp_path).count(prompt) > 1}
    assert "die once:dead" in again and len(again) <= 2
    said = capsys.readouterr().err
    assert said.count("was lost (The actor is dead because its worker process has died)") == 1
    repeated = int(said.split(" responses that it had under way are repeated")[0].split()[-1])
    assert repeated <= 2 * SAMPLING.n and repeated >= len(again) * SAMPLING.n
    assert len(processes(tmp_path)) >= 2


def test_each_part_is_kept_as_it_comes(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "RESPONSES_PER_PART", 6)  # two prompts
    # The longest prompt is in the first part, which is answered when another is kept.
    prompts = ["wait for:kept/*/*.jsonl", *PROMPTS]
    keeping = ResumableEngine(engine(cluster, tmp_path), tmp_path / "kept")
    assert keeping.generate(prompts, SAMPLING) == answers(prompts)
    files = list((tmp_path / "kept").rglob("*.jsonl"))
    assert len(files) == 13
    files[0].unlink()
    before = asked(tmp_path)
    assert keeping.generate(prompts, SAMPLING) == answers(prompts)
    assert len(asked(tmp_path)) - len(before) <= 2


def test_pairs_that_are_asked_together_are_scored_together_though_an_engine_is_lost(
    cluster: Cluster, tmp_path: Path
) -> None:
    groups = [[([n], [n, 1]), ([n % 2], [n])] for n in range(12)]
    found = engine(cluster, tmp_path).loglikelihoods(groups)
    assert found == [likelihoods(group) for group in groups]
    assert len(processes(tmp_path, "scored")) >= 2
    assert engine(cluster, tmp_path).loglikelihoods([]) == []


def test_what_kills_every_engine_is_not_tried_for_ever(cluster: Cluster, tmp_path: Path) -> None:
    running = engine(cluster, tmp_path)
    with pytest.raises(UserError, match=r"3 engines were lost.*over the same 3 responses"):
        list(running.stream([["die:dead"]], SAMPLING))
    assert asked(tmp_path) == ["die:dead"] * clusters.MAX_LOST_ACTORS


def test_what_an_engine_refuses_is_said_as_it_says_it(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        engine(cluster, tmp_path, "refused")
    assert str(raised.value) == "The model is refused. Take another."
    assert raised.value.__cause__ is None


def test_weights_that_are_others_on_another_node_are_refused(
    cluster: Cluster, tmp_path: Path
) -> None:
    parts = [["wait for:absent"]]
    with pytest.raises(UserError, match=f"has other weights in {tmp_path} than"):
        list(engine(cluster, tmp_path, "differs").stream(parts, SAMPLING))


def test_a_fault_of_ours_keeps_its_name_and_place(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="a fault of ours") as raised:
        engine(cluster, tmp_path, "broken")
    assert "in load" in str(raised.value.__cause__)


def test_a_folder_that_a_node_does_not_see_is_named(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"has no folder {tmp_path}/absent"):
        engine(cluster, tmp_path / "absent")


def test_what_engines_say_is_passed_on_and_ray_says_nothing(
    cluster: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    list(engine(cluster, tmp_path).stream([["say:Out of memory."]], SAMPLING))
    said = capfd.readouterr()
    assert said.out == ""
    *_, last = said.err.splitlines()
    assert last.endswith(f" on {os.uname().nodename}: Out of memory.")
    assert all(
        line.startswith("engine ") or "of 3 engines" in line for line in said.err.splitlines()
    )


def test_no_room_says_what_was_asked_for(nodes: str, tmp_path: Path) -> None:
    asked = Cluster(Faulty(), engines=2, gpus=1, wait=1, address=nodes)
    with pytest.raises(
        UserError, match=r"takes 1 CPUs and 1 GPUs of a node, and there are 3 nodes"
    ):
        engine(asked, tmp_path)
    asked.close()


def test_engines_release_and_leave_nothing_behind(cluster: Cluster, tmp_path: Path) -> None:
    first = engine(cluster, tmp_path)
    first.generate(PROMPTS, SAMPLING)
    cluster.release()
    assert alive(processes(tmp_path)) <= processes(tmp_path, "released")
    assert first.generate(PROMPTS, SAMPLING) == answers(PROMPTS)
    assert processes(tmp_path) <= processes(tmp_path, "loaded")
    serving = alive(processes(tmp_path))
    cluster.close()
    assert serving and serving <= processes(tmp_path, "closed")
    while any(Path(f"/proc/{one}").exists() for one in processes(tmp_path, "loaded")):
        time.sleep(0.05)  # until the test runs into its time limit


def test_another_version_on_a_node_is_refused(
    nodes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "own_version", lambda: "9.9")
    other = Cluster(Faulty(), engines=1, address=nodes)
    with pytest.raises(UserError, match=r"the run is of 9\.9: install the same one"):
        engine(other, tmp_path)
    other.close()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense"])
def test_no_cluster_at_the_address_is_said(tmp_path: Path, address: str) -> None:
    with pytest.raises(UserError, match=f"Cannot reach a Ray cluster at {address}"):
        engine(Cluster(Faulty(), engines=1, address=address), tmp_path)


def test_ray_that_is_not_installed_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'rlrf-harness\[ray\]'"):
        Cluster(Faulty(), engines=1)
