"""An lm-eval model that answers what a test tells it to: a fake."""

from __future__ import annotations

from typing import Any


class Scripted:
    """Answers as it is told, and keeps what it was asked."""

    def __new__(cls, answer: str) -> Any:
        from lm_eval.api.model import LM

        class _Scripted(LM):  # type: ignore[misc]
            tokenizer_name = "scripted"

            def __init__(self) -> None:
                super().__init__()
                self.asked: list[tuple[str, dict[str, Any]]] = []

            def generate_until(self, requests: list[Any]) -> list[str]:
                self.asked += [request.args for request in requests]
                return [answer] * len(requests)

            def loglikelihood(self, requests: list[Any]) -> Any:
                raise NotImplementedError

            loglikelihood_rolling = loglikelihood

            def apply_chat_template(self, chat: Any, add_generation_prompt: bool = True) -> str:
                turns = [f"<{turn['role']}>{turn['content']}" for turn in chat]
                return "".join(turns) + "<assistant>"

            def chat_template(self, _: Any = False) -> str:
                return "turns"

        return _Scripted()
