"""A cross-encoder for natural language inference verifies facts: does a passage entail it?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.files import file_digest
from harness.core.schema import digest
from tasks.factscore.lexical_features import nearest
from tasks.factscore.parts import Claim, Finding
from tasks.task import Judge

BATCH = 32  # pairs of passage and fact
THRESHOLD = 0.5  # probability of entailment
FILES = ("*.safetensors", "*.json", "*.txt", "*.model")


class Nli:
    """Supported where one of the passages entails the fact with probability of a half or more."""

    prompt_digest = None

    def __init__(self, model: str) -> None:
        """`model` is a folder, or the id of a model on the hub, as ID or ID@REVISION.

        Raises:
            UserError: there is no such model, or it is no classifier for entailment.
        """
        self._folder = _find(model)
        self._entailment = _entailment(self._folder)
        files = sorted(file for pattern in FILES for file in self._folder.glob(pattern))
        content = digest([[file.name, file_digest(file)] for file in files])
        self.name = f"verify nli {Path(model).name}@{content[:8]}"

    def verify(self, claims: Sequence[Sequence[Claim]], judge: Judge | None) -> list[list[Finding]]:
        """Findings; none fails. Passages are cut where pairs are too long for the model."""
        pairs = [
            (f"{claim.entity}: {passage}", claim.text)
            for group in claims
            for claim in group
            for passage in claim.passages
        ]
        entailed = iter(self._probabilities(pairs))
        return [
            [
                Finding(
                    max((next(entailed) for _ in claim.passages), default=0.0) >= THRESHOLD,
                    evidence=nearest(claim),
                )
                for claim in group
            ]
            for group in claims
        ]

    def _probabilities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        import torch

        tokenizer, model = self._loaded
        # Pairs of like length share a batch, so that little is spent on padding.
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
        found = [0.0] * len(pairs)
        limit = min(512, tokenizer.model_max_length)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            inputs = tokenizer(
                *([_utf8(pairs[i][side]) for i in rows] for side in (0, 1)),
                truncation="longest_first",
                max_length=limit,
                padding=True,
                return_tensors="pt",
            ).to(model.device)
            with torch.inference_mode():
                shares = model(**inputs).logits.float().softmax(-1)[:, self._entailment]
            for i, share in zip(rows, shares.tolist(), strict=True):
                found[i] = share
        return found

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self._folder, trust_remote_code=False)
            model = AutoModelForSequenceClassification.from_pretrained(
                self._folder, use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise UserError(f"{self._folder} cannot be loaded: {error}") from error
        return tokenizer, model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _find(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = model.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(FILES)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"There is no model {model}: neither a folder nor to be had from the hub. Name a "
            "folder, or the id of a cross-encoder for natural language inference."
        ) from error


def _entailment(folder: Path) -> int:
    """The number of the label that means entailment."""
    from transformers import AutoConfig

    try:
        labels = AutoConfig.from_pretrained(folder, trust_remote_code=False).id2label
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no model: {error}") from error
    found = [number for number, label in labels.items() if label.lower() == "entailment"]
    if len(found) != 1:
        raise UserError(
            f"{folder} is no model for natural language inference: none of its labels "
            f"({', '.join(labels.values())}) is 'entailment'."
        )
    return int(found[0])


def _utf8(text: str) -> str:
    """Without lone surrogates, which no tokenizer reads."""
    return text.encode("utf-8", "replace").decode()
