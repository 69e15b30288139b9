from __future__ import annotations

import multiprocessing
import subprocess

import pytest

from harness.core.errors import UserError
from harness.core.schema import Message
from rlrf.run import open_run

COMMON = {"config": "abc"}
HELLO = Message(role="user", content="hello")


def writer(calls, text="done"):
    def make(folder):
        calls.append(text)
        (folder / "file.txt").write_text(text)

    return make


def test_a_stage_is_made_once(tmp_path):
    calls = []
    with open_run(tmp_path / "run", COMMON) as run:
        first = run.stage("iter_1/a", [1], writer(calls))
    with open_run(tmp_path / "run", COMMON) as run:
        again = run.stage("iter_1/a", [1], writer(calls))
    assert calls == ["done"]
    assert first == again
    assert (first.folder / "file.txt").read_text() == "done"


@pytest.mark.parametrize("change", ["reads", "file", "manifest", "missing"])
def test_a_stage_is_made_again_when_anything_about_it_changed(tmp_path, change):
    calls = []
    with open_run(tmp_path / "run", COMMON) as run:
        stage = run.stage("a", [HELLO], writer(calls))
        if change == "file":
            (stage.folder / "file.txt").write_text("forged")
        if change == "manifest":
            (stage.folder / "manifest.json").write_text("{")
        if change == "missing":
            (stage.folder / "file.txt").unlink()
        run.stage("a", [HELLO, 2] if change == "reads" else [HELLO], writer(calls))
    assert calls == ["done", "done"]


def test_what_changes_upstream_changes_downstream(tmp_path):
    calls = []
    with open_run(tmp_path / "run", COMMON) as run:
        for text in ("one", "one", "two"):
            upstream = run.stage("up", [text], writer([], text))
            run.stage("down", [upstream], writer(calls))
    assert len(calls) == 2


def test_a_stage_that_fails_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "run", COMMON) as run:
        run.stage("iter_1/a", [], fail)
    assert list((tmp_path / "run" / "iter_1").iterdir()) == []


def test_records_come_back_as_they_were(tmp_path):
    with open_run(tmp_path / "run", COMMON) as run:
        made = run.records("a", Message, [], lambda: [HELLO])
        again = run.records("a", Message, [], lambda: pytest.fail("made twice"))
    assert made.records == again.records == [HELLO]
    assert made.digest == again.digest


def test_seconds_are_those_of_the_making(tmp_path):
    with open_run(tmp_path / "run", COMMON) as run:
        run.stage("iter_1/a", [], writer([]))
        run.stage("iter_1/b", [], writer([]))
        before = run.seconds("iter_1")
        run.stage("iter_1/a", [], writer([]))
        assert run.seconds("iter_1") == before


def test_a_run_that_depends_on_more_is_refused(tmp_path):
    with open_run(tmp_path / "run", COMMON | {"rewriter": "r"}):
        pass
    with pytest.raises(UserError, match="another rewriter"), open_run(tmp_path / "run", COMMON):
        pass


def test_another_configuration_is_refused_and_fresh_starts_over(tmp_path):
    with open_run(tmp_path / "run", COMMON) as run:
        run.stage("a", [], writer([]))
    with pytest.raises(UserError, match="--fresh"), open_run(tmp_path / "run", {"config": "x"}):
        pass
    with open_run(tmp_path / "run", {"config": "x"}, fresh=True) as run:
        assert not (run.folder / "a").exists()


def test_fresh_does_not_delete_what_is_no_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="other things"), open_run(tmp_path, COMMON, fresh=True):
        pass
    assert (tmp_path / "thesis.tex").exists()


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"), open_run(tmp_path / "file", COMMON):
        pass


def test_leftovers_of_a_killed_process_go(tmp_path):
    with open_run(tmp_path / "run", COMMON) as run:
        (run.folder / "iter_1" / ".train.abcd.rlrf.tmp").mkdir(parents=True)
        (run.folder / ".run.json.xyz.rlrf.tmp").write_text("{")
    with open_run(tmp_path / "run", COMMON) as run:
        assert not (run.folder / "iter_1" / ".train.abcd.rlrf.tmp").exists()
        assert not (run.folder / ".run.json.xyz.rlrf.tmp").exists()


def hold(folder, taken, done):
    with open_run(folder, COMMON):
        taken.set()
        done.wait(30)


def test_a_second_process_is_told(tmp_path):
    context = multiprocessing.get_context("spawn")
    taken, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "run", taken, done))
    process.start()
    assert taken.wait(30)
    with pytest.raises(UserError, match="Another process"), open_run(tmp_path / "run", COMMON):
        pass
    done.set()
    process.join(30)
    with open_run(tmp_path / "run", COMMON):
        pass


def test_a_run_of_another_version_is_named_with_both(tmp_path):
    with open_run(tmp_path / "run", {"code": "0.1.0", "model": "a"}):
        pass
    later = {"code": "0.2.0", "model": "a"}
    with (
        pytest.raises(UserError, match=r"0\.1\.0, this is 0\.2\.0"),
        open_run(tmp_path / "run", later),
    ):
        pass
    with (
        pytest.raises(UserError, match="another model"),
        open_run(tmp_path / "run", later | {"model": "b"}),
    ):
        pass


def test_a_process_killed_before_it_said_what_run_it_is_leaves_a_folder_that_can_be_used(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / ".run.json.abcd.rlrf.tmp").write_text("{")
    with open_run(tmp_path / "run", COMMON) as run:
        assert {path.name for path in run.folder.iterdir()} >= {"run.json"}


def test_starting_over_can_be_killed_and_repeated(tmp_path, monkeypatch):
    with open_run(tmp_path / "run", COMMON) as run:
        run.stage("a", [], writer([]))
        run.stage("b", [], writer([]))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "run", COMMON, fresh=True):
            pass
    with open_run(tmp_path / "run", {"config": "x"}, fresh=True) as run:
        assert {path.name for path in run.folder.iterdir() if path.is_dir()} == set()


@pytest.mark.parametrize(
    "fault",
    [
        OSError(28, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
    ids=["python", "safetensors"],
)
def test_a_full_disk_is_said_and_the_stages_before_are_kept(tmp_path, fault):
    def full(folder):
        (folder / "half").write_text("half")
        raise fault

    with open_run(tmp_path / "run", COMMON) as run:
        run.stage("a", [], writer([]))
        with pytest.raises(UserError, match=r"No space left in .*run: free some, and"):
            run.stage("b", [], full)
        assert not list(run.folder.glob("*b*"))
    with open_run(tmp_path / "run", COMMON) as run:
        run.stage("a", [], lambda folder: pytest.fail("made twice"))
        run.stage("b", [], writer([]))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB, and what makes it larger."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", place]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not mount("size=64k"):
        pytest.skip("only root may mount a file system")
    yield place, lambda: mount("remount", "size=4m")
    subprocess.run(["umount", place], check=True)


def test_on_a_disk_that_is_full_a_run_stops_and_goes_on_when_there_is_room(small_disk):
    place, enlarge = small_disk

    def save(folder):
        (folder / "weights").write_bytes(b"w" * 2**17)

    with open_run(place / "run", COMMON) as run:
        first = run.records("a", Message, [], lambda: [HELLO])
        with pytest.raises(UserError, match="No space left in"):
            run.stage("b", [first], save)
    assert enlarge()
    with open_run(place / "run", COMMON) as run:
        run.records("a", Message, [], lambda: pytest.fail("made twice"))
        stage = run.stage("b", [first], save)
    assert (stage.folder / "weights").stat().st_size == 2**17
