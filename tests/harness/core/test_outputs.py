"""No command removes or overwrites what it did not write, wherever it is told to write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from rlrf.cli import cli, run
from rlrf.quickstart import CONFIG, M0
from tasks.mini import world

TASK = "mini_gsm8k"
STRANGER = "thesis.txt"

# (command, parameter) -> its arguments. They name inputs as {answers}, {evaluation}, ...
FOLDERS = {
    ("eval", "out"): "eval --model {m0} --tasks mini_gsm8k --split gate --limit 1 --out {out}",
    ("score", "out"): "score mini_gsm8k {answers} --out {out}",
    ("gate", "out"): "gate {evaluation} --model {m0} --out {out}",
    ("train", "out"): "train {config} --out {out}",
    ("quickstart", "out"): "quickstart --out {out}",
    ("doctor", "out"): "doctor {config} --out {out}",
    ("train-step", "out"): "train-step {config} {pairs} --out {out}",
    ("reward-model train", "out"): "reward-model train {pairs} --base {m0} --out {out}",
    ("reward-model self-evolve", "out"): "reward-model self-evolve {evolution} --out {out}",
    ("feedback-model train", "out"): "feedback-model train {pairs} --base {m0} --out {out}",
    ("board add", "folder"): "board add {out} {evaluation}",
    ("board supersede", "folder"): "board supersede {out} 1234 5678 --reason r",
    ("board invalidate", "folder"): "board invalidate {out} 1234 --reason r",
    ("board export", "out"): "board export {board} --format eee --organization me --out {out}",
}
FILES = {
    ("explore", "out"): "explore {config} --limit 1 --out {out}",
    ("feedback", "out"): "feedback {config} {pairs} --out {out}",
    ("reflect", "out"): "reflect {config} {pairs} --out {out}",
    ("pairs", "out"): "pairs {config} {pairs} --out {out}",
    ("plan", "out"): "plan {policy} --baseline {evaluation} --out {out}",
    ("plan", "svg_file"): "plan mini_gsm8k --discordance 0.1 --svg {out}",
    ("gate", "markdown"): "gate {evaluation} {evaluation} --markdown {out}",
    ("gate", "junit"): "gate {evaluation} {evaluation} --junit {out}",
    ("noise", "out"): "noise {evaluation} --policy {policy} --out {out}",
    ("simulate", "svg_file"): "simulate --loops 10 --svg {out}",
    ("board badge", "svg"): "board badge {board} --task mini_gsm8k --svg {out}",
    ("board render", "svg"): "board render {board} --split gate --svg {out}",
    ("report", "out"): "report --baseline {evaluation} --candidate {evaluation} --out {out}",
    ("rlmec show", "html_"): "rlmec show {evaluation} --html {out}",
    ("judge sheet", "out"): "judge sheet {evaluation} --out {out}",
    ("reward-model pairs", "out"): "reward-model pairs {m0} --prompts 1 --out {out}",
    ("knowledge build", "db"): "knowledge build {pages} {out}",
}
READ_ONLY = {  # what a command reads, and where nothing is written
    *("clusters", "cluster_file", "files", "include_paths", "model"),
    *("adapter", "after", "baseline", "before", "candidate", "config", "data", "drift", "a", "b"),
    *("evaluation", "evaluations", "facts", "findings", "iteration", "judge", "judge_file"),
    *(
        "judged",
        "judgments",
        "labels",
        "pages",
        "pairs",
        "plan",
        "plans",
        "policy",
        "responses",
        "run",
    ),
    *("runs", "second", "settings", "tokenizer", "base", "theirs"),
}
READS_BOARD = {"verify", "diff", "exposure", "badge", "export", "render"}
OTHERS = {
    ("board merge-driver", "ours"),  # git's contract
    ("knowledge show", "db"),  # a reader
    ("tasks new", "out"),  # writes one new folder; `tests/rlrf/test_new_task.py`
}


def commands(group: click.Group, name: str = "") -> Iterator[tuple[str, click.Command]]:
    for key, command in group.commands.items():
        path = f"{name} {key}".strip()
        if isinstance(command, click.Group):
            yield from commands(command, path)
        else:
            yield path, command


def test_every_path_of_every_command_is_known_as_read_or_as_written() -> None:
    paths = {
        (name, parameter.name)
        for name, command in commands(cli)
        for parameter in command.params
        if isinstance(parameter.type, click.Path) or parameter.name in ("out", "svg")
    }
    known = FOLDERS.keys() | FILES.keys() | OTHERS
    unknown = {
        (command, parameter)
        for command, parameter in paths - known
        if parameter not in READ_ONLY
        and not (parameter == "folder" and command.split()[-1] in READS_BOARD)
    }
    assert not unknown, "say in this file what is written there, and see that nothing is lost"
    assert known <= paths


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("inputs")
    lines = [
        json.dumps({"id": item.index, "response": item.reference["answer"]})
        for item in world.items(TASK, "gate")
    ]
    files = {
        "answers": "\n".join(lines) + "\n",
        "pairs": '{"prompt": "p", "chosen": "c", "rejected": "r"}\n',
        "pages": '{"title": "Ida", "text": "Ida is a person."}\n',
        "evolution": f"model: {M0}\npairs: pairs.jsonl\nseed_fractions: [0.5]\n",
        "policy": '{"rules": [{"task": "mini_gsm8k", "metric": "accuracy", "margin": 0.3}]}',
    }
    made = {"m0": M0, "config": CONFIG}
    for name, text in files.items():
        suffix = {"evolution": "yaml", "policy": "json"}.get(name, "jsonl")
        made[name] = root / f"{name}.{suffix}"
        made[name].write_text(text)
    made["evaluation"] = root / "evaluations"
    made["board"] = root / "board"
    assert run(["score", TASK, str(made["answers"]), "--out", str(made["evaluation"])]) == 0
    assert run(["board", "add", str(made["board"]), str(made["evaluation"])]) == 0
    return made


def arguments(template: str, inputs: dict[str, Path], out: Path) -> list[str]:
    return [part.format(**inputs, out=out) for part in template.split()]


def tree(folder: Path) -> dict[str, object]:
    """All that lies in a folder."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


def refused(capsys: pytest.CaptureFixture[str], command: list[str], root: Path) -> str:
    """What is said to a command that exits 3 and leaves everything below `root` as it was."""
    before = tree(root)
    capsys.readouterr()
    assert run(command) == 3, command
    out, err = capsys.readouterr()
    assert tree(root) == before
    assert "Traceback" not in err and "unexpected" not in err
    return out + err


@pytest.mark.parametrize("linked", [False, True], ids=["folder", "link"])
@pytest.mark.parametrize("command", FOLDERS, ids=" ".join)
def test_a_folder_with_a_strangers_file_is_refused(
    command: tuple[str, str],
    linked: bool,
    inputs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / STRANGER).write_text("years of work")
    out = theirs
    if linked:
        out = tmp_path / "link"
        out.symlink_to(theirs)
    said = refused(capsys, arguments(FOLDERS[command], inputs, out), tmp_path)
    assert str(out) in said or str(theirs) in said


@pytest.mark.parametrize("where", ["file", "in a file", "broken link"])
@pytest.mark.parametrize("command", FOLDERS, ids=" ".join)
def test_a_folder_that_cannot_be_one_is_refused(
    command: tuple[str, str],
    where: str,
    inputs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / STRANGER).write_text("years of work")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    out = {
        "file": tmp_path / STRANGER,
        "in a file": tmp_path / STRANGER / "out",
        "broken link": tmp_path / "broken",
    }[where]
    refused(capsys, arguments(FOLDERS[command], inputs, out), tmp_path)


@pytest.mark.parametrize("where", ["file", "link", "broken link", "folder", "in a file"])
@pytest.mark.parametrize("command", FILES, ids=" ".join)
def test_a_file_of_somebody_else_is_refused(
    command: tuple[str, str],
    where: str,
    inputs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / STRANGER).write_text("years of work")
    (tmp_path / "link").symlink_to(tmp_path / STRANGER)
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    out = {
        "file": tmp_path / STRANGER,
        "link": tmp_path / "link",
        "broken link": tmp_path / "broken",
        "folder": tmp_path / "folder",
        "in a file": tmp_path / STRANGER / "out",
    }[where]
    refused(capsys, arguments(FILES[command], inputs, out), tmp_path)


@pytest.mark.parametrize("command", FILES, ids=" ".join)
def test_an_input_is_not_written_over(
    command: tuple[str, str], inputs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [name for name in inputs if f"{{{name}}}" in FILES[command]]
    for name in given:
        place = inputs[name]
        if place.is_dir():
            place = next(path for path in sorted(place.rglob("*")) if path.is_file())
        root = place if place.is_dir() else place.parent
        refused(capsys, arguments(FILES[command], inputs, place), root)


@pytest.mark.parametrize("kind", ["stranger", "other task", "link", "damaged"])
@pytest.mark.parametrize("command", [("eval", "out"), ("score", "out")], ids=" ".join)
def test_the_folder_of_a_task_is_replaced_only_if_it_is_an_evaluation_of_it(
    command: tuple[str, str],
    kind: str,
    inputs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    folder = out / TASK
    assert run(arguments(FOLDERS["score", "out"], inputs, out)) == 0
    if kind == "stranger":
        (folder / STRANGER).write_text("years of work")
    elif kind == "other task":
        path = folder / "evaluation.json"
        path.write_text(path.read_text().replace(TASK, "gsm8k"))
    elif kind == "link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        (folder / "evaluation.json").write_text("{")
    refused(capsys, arguments(FOLDERS[command], inputs, out), tmp_path)


def test_a_data_set_is_not_replaced_by_its_evaluation(
    inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    (data / "gsm8k").mkdir(parents=True)
    (data / "gsm8k" / "test.jsonl").write_text('{"question": "q", "answer": "#### 1"}\n')
    command = ["eval", "--model", str(M0), "--tasks", "gsm8k", "--data", str(data / "gsm8k")]
    refused(capsys, [*command, "--out", str(data)], tmp_path)


def test_another_evaluation_stays_beside_the_one_that_is_written(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = arguments(FOLDERS["score", "out"], inputs, out)
    assert run(command) == 0
    (out / TASK).rename(out / "other")
    before = tree(out / "other")
    assert run(command) == 0 and run(command) == 0
    assert tree(out / "other") == before
    assert sorted(path.name for path in out.iterdir()) == [".lock", TASK, "other"]


def test_an_evaluation_written_flat_by_an_earlier_version_is_read_and_not_written_into(
    inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(arguments(FOLDERS["score", "out"], inputs, out)) == 0
    flat = tmp_path / "flat"
    (out / TASK).rename(flat)
    assert run(["gate", str(flat), str(inputs["evaluation"])]) == 0
    said = refused(capsys, arguments(FOLDERS["score", "out"], inputs, flat), tmp_path)
    assert "is itself an evaluation" in said


def test_a_link_to_a_folder_is_written_through(inputs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert run(arguments(FOLDERS["score", "out"], inputs, tmp_path / "link")) == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / TASK).is_dir()


@pytest.mark.slow
def test_a_file_of_the_same_kind_is_replaced(inputs: dict[str, Path], tmp_path: Path) -> None:
    for name in (("plan", "out"), ("gate", "markdown"), ("gate", "junit"),
                 ("board badge", "svg"), ("report", "out"), ("knowledge build", "db"),
                 ("simulate", "svg_file")):  # fmt: skip
        out = tmp_path / "_".join(name)
        for _ in range(2):
            assert run(arguments(FILES[name], inputs, out)) == 0, name
        out.unlink()
        out.touch()
        assert run(arguments(FILES[name], inputs, out)) == 0, name
        assert out.stat().st_size


def test_a_device_is_written_to_and_never_replaced(inputs: dict[str, Path], tmp_path: Path) -> None:
    program = [str(Path(sys.executable).parent / "rlrf")]
    for place, shown in (("/dev/null", ""), ("/dev/stdout", "<testsuites")):
        command = arguments(FILES["gate", "junit"], inputs, Path(place))
        done = subprocess.run(program + command, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and shown in done.stdout
        assert Path("/dev/null").is_char_device()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        command = arguments(FILES["gate", "junit"], inputs, pipe)
        assert run(command) == 0
        text, _ = reader.communicate(timeout=30)
    assert "<testsuites" in text and pipe.is_fifo()


def test_starting_over_spares_a_run_that_holds_somebody_elses_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlrf.run import open_run

    with open_run(tmp_path / "run", {"config": "c"}) as made:
        made.stage("iter_1/a", [], lambda folder: (folder / "file").write_text("x") and None)
    places: list[Callable[[Path], Path]] = [
        lambda folder: folder / STRANGER,
        lambda folder: folder / "iter_1" / STRANGER,
        lambda folder: folder / "iter_1" / "a" / STRANGER,
    ]
    for place in places:
        place(tmp_path / "run").write_text("years of work")
        said = refused(
            capsys, ["train", str(CONFIG), "--out", str(tmp_path / "run"), "--fresh"], tmp_path
        )
        assert STRANGER in said
        place(tmp_path / "run").unlink()


def test_evaluations_that_a_command_reads_are_not_replaced_by_it(
    inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(arguments(FOLDERS["score", "out"], inputs, out)) == 0
    (tmp_path / "link").symlink_to(out)
    gate = ["--model", str(M0), "--out", str(out)]
    for command in (
        ["score", TASK, str(out), "--out", str(out)],
        ["score", TASK, str(out / TASK), "--out", str(out)],
        ["score", TASK, str(tmp_path / "link"), "--out", str(out)],
        ["gate", str(out), *gate],
        ["gate", str(out / TASK), *gate],
    ):
        refused(capsys, command, tmp_path)


@pytest.mark.slow
def test_two_scorings_of_one_folder_do_not_work_at_once(
    inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.core.folders import sole_user

    out = tmp_path / "out"
    out.mkdir()
    with sole_user(out):
        for name in ("score", "eval", "gate"):
            capsys.readouterr()
            assert run(arguments(FOLDERS[name, "out"], inputs, out)) == 3
            assert "Another process works in" in capsys.readouterr().err


def test_nothing_is_written_among_files_that_digests_check(
    inputs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    inside = inputs["evaluation"] / TASK / "plan.json"
    said = refused(capsys, arguments(FILES["plan", "out"], inputs, inside), inputs["evaluation"])
    assert "checked by their digests" in said


@pytest.mark.parametrize("command", FOLDERS, ids=" ".join)
def test_files_of_desktops_and_git_do_not_make_a_folder_somebody_elses(
    command: tuple[str, str],
    inputs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / ".DS_Store").write_text("icons")
    (theirs / ".gitkeep").touch()
    if command[0] in ("score", "board add", "board export", "doctor"):  # in a second or so
        for _ in range(2):
            assert run(arguments(FOLDERS[command], inputs, theirs)) == 0
        assert len(tree(theirs)) > 2 or command[0] == "doctor"
    else:
        (theirs / STRANGER).write_text("years of work")
        assert run(arguments(FOLDERS[command], inputs, theirs)) == 3
        assert STRANGER in capsys.readouterr().err
    assert (theirs / ".DS_Store").read_text() == "icons" and (theirs / ".gitkeep").exists()


def test_incidental_files_stay_in_what_is_replaced(
    inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = arguments(FOLDERS["score", "out"], inputs, out)
    assert run(command) == 0
    before = tree(out)
    icons = out / TASK / ".DS_Store"
    icons.write_text("icons")
    assert run(command) == 0
    assert icons.read_text() == "icons"
    icons.unlink()
    assert tree(out) == before
    icons.symlink_to(inputs["answers"])
    assert ".DS_Store" in refused(capsys, command, tmp_path)
    icons.unlink()
    icons.mkdir()
    assert ".DS_Store" in refused(capsys, command, tmp_path)


def test_a_stage_that_a_desktop_looked_at_is_not_made_again(tmp_path: Path) -> None:
    from rlrf.run import open_run

    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text("w")

    for reads, times in ((1, 1), (1, 1), (2, 2)):
        with open_run(tmp_path / "run", {"config": "c"}) as run_:
            digest = run_.stage("iter_1/train", [reads], make).digest
        assert len(made) == times
        for place in ("", "iter_1", "iter_1/train", "iter_1/train/model"):
            (tmp_path / "run" / place / ".DS_Store").write_text("icons")
    with open_run(tmp_path / "run", {"config": "c"}, fresh=True) as run_:
        assert run_.stage("iter_1/train", [1], make).digest == digest
    assert (tmp_path / "run" / ".DS_Store").exists()


@pytest.mark.parametrize("name", [".x.rlrf.tmp", ".lock"])
@pytest.mark.parametrize("command", FOLDERS, ids=" ".join)
def test_a_link_by_a_name_that_commands_use_themselves_is_refused(
    command: tuple[str, str],
    name: str,
    inputs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    theirs, out = tmp_path / "theirs", tmp_path / "out"
    theirs.mkdir()
    (theirs / STRANGER).write_text("years of work")
    out.mkdir()
    (out / name).symlink_to(theirs)
    assert name in refused(capsys, arguments(FOLDERS[command], inputs, out), tmp_path)


def test_the_board_of_a_run_is_looked_at_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / STRANGER).write_text("years of work")
    config = tmp_path / "run.yaml"
    config.write_text(f"model: {M0}\nboard: {theirs}\ntasks: [{{name: {TASK}, prompts: 4}}]\n")
    command = ["train", str(config), "--out", str(tmp_path / "run")]
    said = refused(capsys, command, tmp_path)
    assert f"{theirs} holds {STRANGER} and no board" in said
