"""Model folders are somebody else's data: none runs code, and none leads out of itself."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.jobs import job
from helpers.random_llama import make_model

from harness.core.errors import UserError
from harness.core.schema import Message
from harness.engines.hf import HFEngine
from harness.engines.model_folder import Checkpoint
from rlrf.objectives import base

ROOT = Path(__file__).parents[3]
EVIL = "from pathlib import Path\nPath({out!r}).write_text('this ran')\n"


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


@pytest.fixture
def adapter(tokenizer: Any, tmp_path: Path) -> Path:
    import peft

    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(make_model(len(tokenizer)), lora).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


class Evil:
    """What runs `open(file, "w")` when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.file), "w")


def by_engine(folder: Path) -> None:
    HFEngine(folder).render([Message(role="user", content="hello")])


def by_training(folder: Path) -> None:
    start = Checkpoint("M0", folder)
    base.load_policy_tokenizer(start)
    base.load_model(job(start))


DOORS = pytest.mark.parametrize("load", [by_engine, by_training])


@DOORS
@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("known", [True, False], ids=["known", "unheard of"])
def test_python_that_lies_in_the_folder_never_runs(
    folder: Path, tmp_path: Path, load: Callable[[Path], None], place: str, known: bool
) -> None:
    names = "AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "AutoModel"
    change(folder / place, auto_map=dict.fromkeys(names, "evil.Evil"))
    if not known and place == "config.json":
        change(folder / place, model_type="unheard_of", architectures=["Evil"])
    elif not known:
        change(folder / place, tokenizer_class="EvilTokenizer")
    (folder / "evil.py").write_text(EVIL.format(out=str(tmp_path / "ran")))
    try:
        load(folder)
    except UserError as error:
        assert str(folder) in str(error)
    assert not (tmp_path / "ran").exists()


def pickled(folder: Path, ran: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(ran)))


def pickled_part(folder: Path, ran: Path) -> None:
    indexed(folder, "part.bin")
    (folder / "part.bin").write_bytes(pickle.dumps(Evil(ran)))


def indexed(folder: Path, part: str) -> None:
    """The weights, as an index that says that they are in `part`."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = list(weights.keys())
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, part)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    shutil.copy(folder.parent / "outside.safetensors", folder / "other.safetensors")


def linked(folder: Path, ran: Path) -> None:
    indexed(folder, "part.safetensors")
    (folder / "part.safetensors").symlink_to(folder.parent / "outside.safetensors")


def linked_tokenizer(folder: Path, ran: Path) -> None:
    (folder / "tokenizer.json").rename(folder.parent / "tokenizer.json")
    (folder / "tokenizer.json").symlink_to("../tokenizer.json")


def linked_templates(folder: Path, ran: Path) -> None:
    (folder.parent / "templates").mkdir()
    (folder / "additional_chat_templates").symlink_to("../templates", target_is_directory=True)


def named_kernel(folder: Path, ran: Path) -> None:
    change(folder / "config.json", attn_implementation="somebody/kernel")


@DOORS
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (pickled, "are a pickle"),
        (pickled_part, "which is not a safetensors file of that folder"),
        (linked, "is a link out of the model folder"),
        (linked_tokenizer, "is a link out of the model folder"),
        (linked_templates, "is a link out of the model folder"),
        (named_kernel, "code of models is never run"),
        (lambda f, _: indexed(f, "../outside.safetensors"), "which is not a safetensors file"),
        (
            lambda f, _: indexed(f, str(f.parent / "outside.safetensors")),
            "which is not a safetensors",
        ),
    ],
)
def test_what_runs_code_or_leads_out_of_the_folder_is_refused(
    folder: Path,
    tmp_path: Path,
    load: Callable[[Path], None],
    spoil: Callable[[Path, Path], None],
    said: str,
) -> None:
    spoil(folder, tmp_path / "ran")
    with pytest.raises(UserError, match=said):
        load(folder)
    assert not (tmp_path / "ran").exists()


def test_parts_and_links_within_the_folder_are_fine(folder: Path) -> None:
    indexed(folder, "part.safetensors")
    (folder / "part.safetensors").symlink_to("other.safetensors")
    by_engine(folder)


def test_the_hubs_own_folders_are_links_and_fine(model_folder: Path, tmp_path: Path) -> None:
    """As the hub's cache has them: snapshots of links into blobs."""
    snapshot, blobs = (
        tmp_path / "models--a--b" / "snapshots" / "1f",
        tmp_path / "models--a--b/blobs",
    )
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(model_folder.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    by_engine(snapshot)
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "tokenizer.json").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="is a link out of the model folder"):
        by_engine(snapshot)


def test_a_tokenizer_configuration_cannot_name_a_file_elsewhere(
    folder: Path, tmp_path: Path
) -> None:
    elsewhere = Path(shutil.copy(folder / "tokenizer.json", tmp_path / "elsewhere.json"))
    known = json.loads(elsewhere.read_text())
    known["model"]["vocab"] = {"planted": 0}
    known["model"]["merges"] = []
    elsewhere.write_text(json.dumps(known))
    change(
        folder / "tokenizer_config.json", tokenizer_file=str(elsewhere), vocab_file=str(elsewhere)
    )
    assert "planted" not in HFEngine(folder).tokenizer.get_vocab()


def test_an_adapter_beside_a_model_is_refused(folder: Path, adapter: Path) -> None:
    shutil.copy(adapter / "adapter_config.json", folder)
    with pytest.raises(UserError, match="an adapter next to a model"):
        HFEngine(folder)


def merged(folder: Path, adapter: Path) -> None:
    HFEngine(folder, adapter=adapter)


def trained_on(folder: Path, adapter: Path) -> None:
    base.load_model(job(Checkpoint("M1", folder, adapter)))


@pytest.mark.parametrize("load", [merged, trained_on])
def test_adapters_are_held_to_the_same(
    folder: Path, adapter: Path, tmp_path: Path, load: Callable[[Path, Path], None]
) -> None:
    load(folder, adapter)
    weights = adapter / "adapter_model.safetensors"
    pickle_of = adapter / "adapter_model.bin"

    weights.rename(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="no weights"):
        load(folder, adapter)
    pickle_of.write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(UserError, match="are a pickle"):
        load(folder, adapter)
    # Something else that is safe does not make the pickle so.
    shutil.copy(tmp_path / "weights.safetensors", adapter / "other.safetensors")
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        load(folder, adapter)
    weights.symlink_to(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="is a link out of the model folder"):
        load(folder, adapter)
    weights.unlink()
    shutil.copy(tmp_path / "weights.safetensors", weights)
    change(adapter / "adapter_config.json", peft_type="PROMPT_TUNING")
    with pytest.raises(UserError, match="other kinds are not supported"):
        load(folder, adapter)
    assert not (tmp_path / "ran").exists()


POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


@DOORS
@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "config.json", "vocab.json", "tokenizer.model"]
)
def test_a_file_that_git_lfs_has_not_fetched_is_named(
    folder: Path, load: Callable[[Path], None], name: str
) -> None:
    (folder / name).write_bytes(POINTER)
    with pytest.raises(UserError, match=rf"{name} is a Git LFS pointer.*`git lfs pull`"):
        load(folder)


def test_an_adapter_that_git_lfs_has_not_fetched_is_named(folder: Path, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(POINTER)
    with pytest.raises(UserError, match="is a Git LFS pointer"):
        merged(folder, adapter)


@DOORS
@pytest.mark.parametrize(
    "absurd",
    [
        {"num_hidden_layers": 10**8},
        {"num_hidden_layers": 1e8},
        {"num_hidden_layers": 10**30},
        {"hidden_size": 10**9},
        {"intermediate_size": 10**12},
        {"vocab_size": 10**10},
        {"vocab_size": 10**5, "hidden_size": 10**5},
        {"num_attention_heads": 10**9},
        {"head_dim": 10**9},
        {"text_config": {"num_hidden_layers": 10**8}},
    ],
    ids=str,
)
def test_a_number_that_the_weights_do_not_bear_out_is_refused(
    folder: Path, load: Callable[[Path], None], absurd: dict[str, Any]
) -> None:
    change(folder / "config.json", **absurd)
    with pytest.raises(UserError, match=r"config\.json says that .*and the weights of"):
        load(folder)


@DOORS
@pytest.mark.parametrize("layers", [0, -5])
def test_a_model_without_layers_is_refused(
    folder: Path, load: Callable[[Path], None], layers: int
) -> None:
    change(folder / "config.json", num_hidden_layers=layers)
    with pytest.raises(UserError, match=r"num_hidden_layers is .*; it must be 1 or more"):
        load(folder)


def test_an_adapters_rank_that_its_weights_do_not_bear_out_is_refused(
    folder: Path, adapter: Path
) -> None:
    for absurd in ({"r": 10**9}, {"rank_pattern": {"q_proj": 10**9}}):
        kept = (adapter / "adapter_config.json").read_text()
        change(adapter / "adapter_config.json", **absurd)
        with pytest.raises(UserError, match="says that the adapter has rank 1,000,000,000"):
            merged(folder, adapter)
        (adapter / "adapter_config.json").write_text(kept)


def endless(folder: Path, *, generation: Any = None, model: Any = None) -> None:
    """Take the end-of-text token out of the tokenizer."""
    known = json.loads((folder / "tokenizer_config.json").read_text())
    del known["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(known))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    change(folder / "generation_config.json", eos_token_id=generation)
    change(folder / "config.json", eos_token_id=model)


def test_training_says_that_a_tokenizer_has_no_end_of_text(folder: Path) -> None:
    endless(folder)
    with pytest.raises(UserError, match=r"has no end-of-text token .eos_token."):
        by_training(folder)
    engine = HFEngine(folder)
    with pytest.raises(UserError, match=r"has no end-of-text token .eos_token."):
        base.encode_response("plums", engine.tokenizer)


@pytest.mark.parametrize("said", [{"generation": [1, 20]}, {"generation": 1}, {"model": 1}])
def test_the_end_of_text_is_taken_from_the_models_files(folder: Path, said: Any) -> None:
    endless(folder, **said)
    by_training(folder)
    assert base.load_policy_tokenizer(Checkpoint("M0", folder)).eos_token == "<|end|>"


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('touch RAN').read() }}",
    "{{ self.__init__.__globals__.__builtins__.open('RAN', 'w') }}",
    "{{ raise_exception.__globals__['__builtins__'].open('RAN', 'w') }}",
    "{{ lipsum.__globals__['os'].system('touch RAN') }}",
    "{{ ''|attr('__class__')|attr('__base__')|attr('__subclasses__')() }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
    "{{ messages.append(1) }}",
    "{% set x = namespace() %}{% set x.__class__ = 1 %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('touch RAN') }}",
    "{% for i in range(10000000) %}{% endfor %}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_a_chat_template_stays_in_its_sandbox(
    folder: Path, tmp_path: Path, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match="chat template cannot be used"):
        by_engine(folder)
    assert not (tmp_path / "RAN").exists()


def test_every_loading_in_the_source_is_without_the_models_code() -> None:
    seen = 0
    for package in ("harness", "rlrf", "tasks"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                loaded = ast.unparse(node.func).removesuffix(".from_pretrained").rpartition(".")[2]
                if node.func.attr != "from_pretrained" or not loaded.startswith("Auto"):
                    continue
                said = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert said.get("trust_remote_code") == "False", f"{path}:{node.lineno}"
                if loaded.startswith("AutoModel"):
                    assert said.get("use_safetensors") == "True", f"{path}:{node.lineno}"
                seen += 1
    assert seen > 8
