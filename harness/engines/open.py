"""Engines by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.core.errors import UserError
from harness.core.yaml import explain
from harness.engines import Engine
from harness.engines.model_folder import find


def open_engine(
    kind: str,
    model: str,
    *,
    revision: str | None = None,
    adapter: Path | None = None,
    tokenizer: Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    max_batch: int | None = None,
    base_url: str | None = None,
    api_key_env: str | None = None,
    max_unanswered: float | None = None,
) -> Engine:
    """Open the engine `kind` with `model`: a folder, a hub name, or the server's name for it.

    An option that is None has the engine's own default.

    Raises:
        UserError: an option that this engine does not have, or what the engine itself says.
    """
    local = {"adapter": adapter, "device": device, "dtype": dtype}
    remote = {
        "base_url": base_url,
        "api_key_env": api_key_env,
        "max_unanswered": max_unanswered,
    }
    for name, value in (local if kind == "openai" else remote).items():
        if value is not None:
            raise UserError(f"{name} is nothing that the engine {kind} has; leave it out.")
    if kind == "openai":
        return _open_server(model, revision, tokenizer, max_batch, remote)
    given = local | {"tokenizer": tokenizer, "max_batch": max_batch}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    found = model if revision is None else find(model, revision)
    engine: Engine
    if kind == "vllm":
        from harness.engines.vllm import VLLMEngine

        engine = VLLMEngine(found, **options)
    else:
        from harness.engines.hf import HFEngine

        engine = HFEngine(found, **options)
    engine.model_id = model
    return engine


def _open_server(
    model: str,
    revision: str | None,
    tokenizer: Path | None,
    max_batch: int | None,
    remote: dict[str, Any],
) -> Engine:
    from harness.engines.openai import OpenAIEngine
    from harness.engines.unanswered import MAX_UNANSWERED
    from harness.serving.settings import ServerSettings

    if remote["base_url"] is None:
        raise UserError("The engine openai is a server: name its address as base_url.")
    share = remote.pop("max_unanswered")
    given = remote | {"model": model, "revision": revision, "max_concurrency": max_batch}
    told = {name: value for name, value in given.items() if value is not None}
    try:
        found = ServerSettings.model_validate(told)
    except ValidationError as error:
        said = explain(error, ServerSettings).removeprefix(": ")
        raise UserError(f"The engine openai: {said}") from error
    return OpenAIEngine(
        found,
        tokenizer=tokenizer,
        key=found.key(),
        max_unanswered=MAX_UNANSWERED if share is None else share,
    )
