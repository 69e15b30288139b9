"""Retrieve the passages of an entity's page that are relevant to a fact: BM25 or embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import UserError
from tasks.factscore.text import stems

PAGES, QUERIES = 1024, 65_536  # kept in memory

Encode = Callable[[Sequence[str]], NDArray[Any]]


class Bm25:
    """Retrieve the k passages with the highest BM25 over word stems; each page is indexed once."""

    def __init__(self, k: int) -> None:
        self.name = f"bm25 k{k}"
        self._k = k
        self._index = lru_cache(PAGES)(_index)
        self._cached = lru_cache(QUERIES)(self._best)

    def retrieve(self, page: tuple[str, ...], query: str) -> tuple[str, ...]:
        """See `Retriever.retrieve`."""
        return self._cached(page, query)

    def _best(self, page: tuple[str, ...], query: str) -> tuple[str, ...]:
        return _top(page, self._index(page)(list(dict.fromkeys(stems(query)))), self._k)


class Dense:
    """Retrieve the k passages whose embeddings have the largest inner product with the query's."""

    def __init__(self, model: str, k: int, encode: Encode | None = None) -> None:
        """Use `encode`, which returns one row per text, or load `model`.

        Raises:
            UserError: sentence-transformers is not installed.
        """
        if encode is None and find_spec("sentence_transformers") is None:
            raise UserError(
                "Dense retrieval needs sentence-transformers: install it with "
                "pip install 'rlrf-harness[dense]', or choose retriever: bm25."
            )
        self.name = f"dense {model} k{k}"
        self._k = k
        self._encode = encode or _encoder(model)
        self._vectors = lru_cache(PAGES)(self._encode)
        self._cached = lru_cache(QUERIES)(self._best)

    def retrieve(self, page: tuple[str, ...], query: str) -> tuple[str, ...]:
        """See `Retriever.retrieve`."""
        return self._cached(page, query)

    def _best(self, page: tuple[str, ...], query: str) -> tuple[str, ...]:
        if not page:
            return ()
        return _top(page, self._vectors(page) @ self._encode((query,))[0], self._k)


def _top(page: tuple[str, ...], scores: NDArray[Any], k: int) -> tuple[str, ...]:
    """Return the k passages with the highest scores; of equals, the earlier one."""
    return tuple(page[i] for i in np.argsort(-scores, kind="stable")[:k])


def _index(page: tuple[str, ...]) -> Callable[[list[str]], NDArray[Any]]:
    """Return a function from the stems of a query to the BM25 score of each passage."""
    import bm25s

    passages = [stems(passage) for passage in page]
    if not any(passages):
        return lambda _query: np.zeros(len(page))
    index = bm25s.BM25()
    index.index(passages, show_progress=False)
    return lambda query: np.asarray(index.get_scores(query) if query else np.zeros(len(page)))


def _encoder(model: str) -> Encode:
    """Return the encoder of `model`, loaded at first use."""

    @cache
    def loaded() -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(model, trust_remote_code=False)

    return lambda texts: np.asarray(loaded().encode(list(texts), show_progress_bar=False))
