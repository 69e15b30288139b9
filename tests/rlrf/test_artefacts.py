"""Finished stages in a second place: fetched whole or not at all, whatever happens to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import uuid

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from test_loop import config, contents

from harness.core.errors import UserError
from harness.engines.open import EngineLoader
from rlrf import loop
from rlrf.artefacts import open_artefacts
from rlrf.run import open_run

COMMON = {"config": "abc"}
TEXTS = {"a.txt": "one", "deep/b.txt": "two" * 1000}


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    """Places of two kinds, each empty."""
    if request.param == "file":
        return f"file://{tmp_path}/store"
    return f"memory://{uuid.uuid4().hex}/store"


def write(folder):
    for name, text in TEXTS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def never(folder):
    pytest.fail("made twice")


def stage(folder, url, make=write, reads=(1,), name="iter_1/a"):
    with open_run(folder, COMMON, artefacts=open_artefacts(url)) as run:
        return run.stage(name, list(reads), make)


def kept(url):
    """The one stage that the store holds: its file system, its place and its manifest."""
    fs, root = fsspec.url_to_fs(url)
    (manifest,) = [path for path in fs.find(root) if path.endswith("/manifest.json")]
    return fs, manifest.removesuffix("/manifest.json"), json.loads(fs.cat_file(manifest))


def test_a_stage_is_fetched_where_it_was_not_made(url, tmp_path, capsys):
    made = stage(tmp_path / "one", url)
    found = stage(tmp_path / "two", url, never)
    assert f"iter_1/a: fetched from {url}" in capsys.readouterr().err
    assert found.digest == made.digest
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    manifests = [tmp_path / name / "iter_1/a/manifest.json" for name in ("one", "two")]
    assert manifests[0].read_bytes() == manifests[1].read_bytes()
    stage(tmp_path / "two", url, never)
    assert "iter_1/a: done before" in capsys.readouterr().err


def test_what_was_made_from_something_else_or_is_called_otherwise_is_another_stage(url, tmp_path):
    stage(tmp_path / "one", url)
    for change in ({"reads": (2,)}, {"name": "iter_1/b"}):
        made = []
        stage(tmp_path / "two", url, lambda folder, made=made: made.append(write(folder)), **change)
        assert made


def test_a_run_that_was_there_before_the_store_is_kept_when_it_is_started_again(url, tmp_path):
    with open_run(tmp_path / "one", COMMON) as run:
        run.stage("iter_1/a", [1], write)
    stage(tmp_path / "one", url, never)
    stage(tmp_path / "two", url, never)


def spoilt(fs, place, manifest, how):
    """Damage what is kept; tells what is said of it."""
    blob = f"{place}/{manifest['outputs']['deep/b.txt']}"
    if how == "changed file":
        fs.pipe_file(blob, b"owt" * 1000)
    elif how == "cut file":
        fs.pipe_file(blob, b"tw")
    elif how == "missing file":
        fs.rm_file(blob)
        return "a file is missing"
    elif how == "cut manifest":
        fs.pipe_file(f"{place}/manifest.json", b'{"inputs": "')
        return "manifest.json cannot be read"
    elif how == "bracket bomb":
        fs.pipe_file(f"{place}/manifest.json", b"[" * 100_000)
        return "manifest.json cannot be read"
    elif how == "endless manifest":
        fs.pipe_file(f"{place}/manifest.json", b" " * (5 * 1024 * 1024))
        return "larger than"
    elif how == "of another stage":
        changed = manifest | {"inputs": "0" * 64}
        fs.pipe_file(f"{place}/manifest.json", json.dumps(changed).encode())
    elif how == "file as folder":
        outputs = manifest["outputs"] | {"a.txt/x": manifest["outputs"]["a.txt"]}
        fs.pipe_file(f"{place}/manifest.json", json.dumps(manifest | {"outputs": outputs}).encode())
        return "a file is named as a folder is"
    return "its files are not those of its manifest"


@pytest.mark.parametrize(
    "how",
    [
        "changed file",
        "cut file",
        "missing file",
        "cut manifest",
        "bracket bomb",
        "endless manifest",
        "of another stage",
        "file as folder",
    ],
)
def test_what_is_damaged_is_refused_and_made_anew(url, tmp_path, capsys, how):
    stage(tmp_path / "one", url)
    said = spoilt(*kept(url), how)
    made = []
    stage(tmp_path / "two", url, lambda folder: made.append(write(folder)))
    assert made
    error = capsys.readouterr().err
    assert "holds it damaged" in error and said in error
    stage(tmp_path / "three", url, never)  # and what was made anew is kept
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


@pytest.mark.parametrize(
    "name",
    ["../../escaped", "/tmp/escaped", "deep/../../escaped", "", ".", "a\\b", "x/manifest.json"],
)
def test_a_name_that_leaves_the_folder_is_refused(url, tmp_path, capsys, name):
    stage(tmp_path / "one", url)
    fs, place, manifest = kept(url)
    outputs = {name: manifest["outputs"]["a.txt"]}
    fs.pipe_file(f"{place}/manifest.json", json.dumps(manifest | {"outputs": outputs}).encode())
    before = set(tmp_path.rglob("*escaped*"))
    stage(tmp_path / "two" / "run", url)
    assert "is not the name of a stage's file" in capsys.readouterr().err
    assert set(tmp_path.rglob("*escaped*")) == before


def test_more_than_there_is_room_for_is_refused_before_it_is_fetched(tmp_path, monkeypatch):
    url = f"file://{tmp_path}/store"
    stage(tmp_path / "one", url)
    _, place, manifest = kept(url)
    with open(f"{place}/{manifest['outputs']['a.txt']}", "r+b") as file:
        file.truncate(2**43)  # sparse: eight terabytes that take no room
    with pytest.raises(UserError, match="There is no room in"):
        stage(tmp_path / "two", url, never)
    assert not list((tmp_path / "two" / "iter_1").iterdir())


def put_until_killed(folder, url, opened):
    """In a process of its own, killed before it opens file number `opened` of the store."""
    place, seen = url.removeprefix("file://"), [0]

    def audit(event, args):
        writes = event == "open" and isinstance(args[0], str) and args[2] & os.O_WRONLY
        if (writes or event == "os.rename") and str(args[0]).startswith(place):
            seen[0] += 1
            if seen[0] == opened:
                os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        sys.addaudithook(audit)
        try:
            stage(folder, url)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_an_upload_killed_at_any_point_leaves_no_stage_and_is_repeated(tmp_path):
    kills = 0
    for opened in range(1, 20):
        url = f"file://{tmp_path}/store{opened}"
        code = put_until_killed(tmp_path / f"run{opened}", url, opened)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
        assert not list((tmp_path / f"store{opened}").rglob("manifest.json"))
        if opened > 1:  # what was sent of a file may be a half
            for blob in (tmp_path / f"store{opened}").glob("*/*"):
                os.truncate(blob, 1)
            shutil.copytree(tmp_path / f"run{opened}", tmp_path / f"again{opened}")
            stage(tmp_path / f"again{opened}", url, never)
            stage(tmp_path / f"elsewhere{opened}", url, never)
            assert contents(tmp_path / f"elsewhere{opened}" / "iter_1") == contents(
                tmp_path / f"run{opened}" / "iter_1"
            )
    # README, two files, the manifest under another name, its renaming.
    assert kills == 5 and code == 0


class Away(LocalFileSystem):
    """A store that cannot be reached: a fault's fake."""

    def info(self, path, **options):
        raise ConnectionError("no route to host")

    def put_file(self, *names, **options):
        raise ConnectionError("no route to host")


def test_a_store_that_is_away_loses_nothing_of_a_run(tmp_path, monkeypatch, capsys):
    url = f"file://{tmp_path}/store"
    with open_run(tmp_path / "one", COMMON, artefacts=open_artefacts(url)) as run:
        monkeypatch.setattr(run.artefacts, "_fs", Away())
        with pytest.raises(UserError, match=r"cannot be looked for .*no route to host"):
            run.stage("a", [1], never)
        monkeypatch.setattr(Away, "info", LocalFileSystem.info)
        run.stage("a", [1], write)
        assert "done, but not kept in" in capsys.readouterr().err
    stage(tmp_path / "one", url, never, name="a")
    stage(tmp_path / "two", url, never, name="a")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sftp://me:hunter2@host/runs", "holds a password"),
        ("abfs://runs@account/x?sig=hunter2", "holds a password"),
        ("simplecache::sftp://me:hunter2@host/runs", "not a chain"),
        ("https://[hunter2", "is not a URL"),
        ("nowhere://runs", "Protocol not known"),
        ("file:///proc/nothing/runs", "nothing can be written"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused_without_a_word_of_its_secrets(
    tmp_path, url, said, toy_letters, tiny_model
):
    with pytest.raises(UserError, match=said) as refused:
        loop.train(config(tiny_model, artefacts=url), tmp_path / "run")
    assert "hunter2" not in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_that_lost_its_machine_goes_on_elsewhere_and_ends_with_the_same_bytes(
    url, tmp_path, toy_letters, tiny_model, monkeypatch
):
    whole = tmp_path / "whole"
    loop.train(config(tiny_model), whole)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "meet_gate", lambda *_: sys.exit(1))
        with pytest.raises(SystemExit):
            loop.train(config(tiny_model, artefacts=url), tmp_path / "lost")
    shutil.rmtree(tmp_path / "lost")

    elsewhere = shutil.copytree(tiny_model, tmp_path / "elsewhere")
    with monkeypatch.context() as patch:
        patch.setattr("rlrf.stages.fit", lambda *_: pytest.fail("trained twice"))
        patch.setattr("rlrf.sampling.explore", lambda *_: pytest.fail("explored twice"))
        loop.train(config(elsewhere, artefacts=url), tmp_path / "second")
    monkeypatch.setattr(EngineLoader, "load", lambda *_: pytest.fail("generated twice"))
    loop.train(config(tiny_model, artefacts=url), tmp_path / "third")
    made = [contents(folder) for folder in (whole, tmp_path / "second", tmp_path / "third")]
    # What references gave is a cache of training's, which was not done twice.
    assert {name.split("/")[0] for name in made[0].keys() - made[1].keys()} == {"references"}
    for name, content in made[1].items():
        assert content == made[0][name] == made[2][name]
        assert url.encode() not in content
    assert made[1].keys() == made[2].keys()


def test_a_readme_that_is_there_already_stays(tmp_path):
    (tmp_path / "README").write_text("mine")
    open_artefacts(str(tmp_path))
    assert (tmp_path / "README").read_text() == "mine"


def test_a_stage_by_other_code_is_another_one_in_the_store(tmp_path):
    def make(text):
        def write(folder):
            (folder / "file").write_text(text)

        return write

    store = open_artefacts(str(tmp_path / "store"))
    texts = []
    for run_name, code in (("one", "1"), ("two", "2"), ("three", "1")):
        with open_run(tmp_path / run_name, {"config": "c"}, artefacts=store) as run:
            stage = run.stage("a", [], make(run_name), {"the code of task t": code})
        texts.append((stage.folder / "file").read_text())
    assert texts == ["one", "two", "one"]
