"""A chat template that loses what was said is noticed before anything is generated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.random_llama import TEMPLATE, make_tokenizer

from harness.core.errors import UserError
from harness.core.schema import Message
from harness.engines.hf import HFEngine
from harness.engines.model_folder import Checkpoint
from harness.engines.openai import OpenAIEngine
from harness.engines.prompts import check_template, render
from harness.serving.settings import ServerSettings
from rlrf.models.reward import model as reward_model
from rlrf.objectives import base

PARTS = (
    "{% for m in messages %}<|{{ m.role }}|>{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FIRST_PART = (
    "{% for m in messages %}<|user|>{{ m.content[0].text }}<|end|>{% endfor %}<|assistant|>"
)
EITHER = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{{ m.content[0]['text'] }}!{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]{% endif %}{% endfor %}"
)
LOSING = {
    "empty": "",
    "only roles": "{% for m in messages %}<|{{ m.role }}|>{% endfor %}<|assistant|>",
    "another key": "{% for m in messages %}{{ m.text }}{% endfor %}<|assistant|>",
    "nobody's turn": "{% for m in messages if m.role == 'human' %}{{ m.content }}{% endfor %}",
    "parts of another kind": "{% for m in messages %}{{ m.content[0].image }}{% endfor %}",
}


def talk(*roles: str) -> list[Message]:
    return [
        Message.model_validate({"role": role, "content": f"{role} says {place}"})
        for place, role in enumerate(roles)
    ]


def by_engine(folder: Path) -> None:
    HFEngine(folder)


def by_server_with_tokenizer(folder: Path) -> None:
    OpenAIEngine(ServerSettings(base_url="http://localhost/v1", model="m"), tokenizer=folder)


def by_training(folder: Path) -> None:
    base.load_policy_tokenizer(Checkpoint("M0", folder))


@pytest.mark.parametrize("template", LOSING.values(), ids=LOSING)
@pytest.mark.parametrize("load", [by_engine, by_server_with_tokenizer, by_training])
def test_a_template_that_loses_the_users_words_is_refused(
    model_folder: Path, tmp_path: Path, load: Callable[[Path], None], template: str
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "copy"))
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match=r"chat template of .*copy loses the user's words"):
        load(folder)


@pytest.mark.parametrize("template", [PARTS, FIRST_PART])
def test_a_template_that_reads_parts_gets_parts(template: str) -> None:
    tokenizer = make_tokenizer(chat_template=template)
    assert render(tokenizer, talk("user")) == "<|user|>user says 0<|end|><|assistant|>"
    assert reward_model.render("Why?", tokenizer) == "<|user|>Why?<|end|><|assistant|>"


def test_a_template_that_takes_both_gets_text() -> None:
    assert render(make_tokenizer(chat_template=EITHER), talk("user")) == "user says 0"


def test_the_systems_words_go_into_the_first_turn_where_a_template_drops_them() -> None:
    tokenizer = make_tokenizer(chat_template=NO_SYSTEM)
    assert render(tokenizer, talk("system", "user")) == "[system says 0\n\nuser says 1]"
    parts = make_tokenizer(chat_template=PARTS)
    assert "<|system|>system says 0<|end|>" in render(parts, talk("system", "user"))


def test_a_turn_that_a_template_drops_is_noticed_when_it_is_there() -> None:
    last = make_tokenizer(chat_template="{{ messages[-1].content }}")
    assert render(last, talk("user")) == "user says 0"
    with pytest.raises(UserError, match="loses the user's words"):
        render(last, talk("user", "assistant", "user"))
    with pytest.raises(UserError, match="loses the assistant's words"):
        render(make_tokenizer(chat_template=NO_SYSTEM), talk("user", "assistant", "user"))


def test_words_that_a_template_trims_or_strips_of_thoughts_are_not_lost() -> None:
    trims = TEMPLATE.replace("message['content']", "message['content'].split('</think>')[-1]|trim")
    said = [Message(role="user", content="  Why?\n")]
    assert render(make_tokenizer(chat_template=trims), said) == "<|user|>Why?<|end|><|assistant|>"


def test_a_tokenizer_without_a_template_gives_the_words_as_they_are() -> None:
    tokenizer = make_tokenizer(chat_template=None)
    check_template(tokenizer)
    assert render(tokenizer, talk("system", "user")) == "system says 0\n\nuser says 1"


def test_a_template_that_is_corrected_in_place_is_looked_at_again() -> None:
    tokenizer = make_tokenizer(chat_template=LOSING["another key"])
    with pytest.raises(UserError, match="loses"):
        check_template(tokenizer)
    tokenizer.chat_template = TEMPLATE
    check_template(tokenizer)


def test_the_doctor_names_a_template_that_loses_words(model_folder: Path, tmp_path: Path) -> None:
    from rlrf.preflight import look_ahead

    folder = Path(shutil.copytree(model_folder, tmp_path / "copy"))
    (folder / "chat_template.jinja").write_text(LOSING["only roles"])
    config: dict[str, Any] = {"model": str(folder), "tasks": [{"name": "mini_gsm8k"}]}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    found = {one.name: one for one in look_ahead(tmp_path / "config.yaml", tmp_path / "run")}
    assert not found["tokenizer"].ok
    assert "loses the user's words" in found["tokenizer"].advice
