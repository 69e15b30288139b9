"""Real chat servers, as a user would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

PATIENCE = 240.0  # seconds until it has to be there
VLLM = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"  # made by `make vllm`


@contextmanager
def transformers_serve(model: Path, log: Path) -> Iterator[str]:
    """Serve `model` by `transformers serve` on the CPU; yields the base_url."""
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(model)]
    with _serving([*command, "--device", "cpu"], {}, log) as url:
        yield url


@contextmanager
def vllm_serve(model: Path, log: Path, name: str, context: int) -> Iterator[str]:
    """Serve `model` as `name` by vLLM's CPU build; yields the base_url."""
    command = [VLLM, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", name, "--max-model-len", context, "--dtype", "float32"]
    command += ["--enforce-eager"]  # compiling takes longer than the tests
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with _serving([str(word) for word in command], env, log) as url:
        yield url


@contextmanager
def _serving(command: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = ["--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as file:
        server = subprocess.Popen(
            [*command, *place],
            stdout=file,
            stderr=file,
            env=os.environ | {"HF_HUB_OFFLINE": "1"} | env,
        )
        try:
            _await(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _await(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and server.poll() is None:
        try:
            with urlopen(url, timeout=2):  # noqa: S310 (our own address)
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the server is not there: {log.read_text()[-2000:]}")
