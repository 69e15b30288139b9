"""A model on a cluster's actors, as an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.engines import Completion, Sampling
from harness.engines.cluster.actors import Cluster
from harness.engines.cluster.host import Pair
from harness.engines.resume import cut
from harness.engines.template import check_template
from harness.engines.text import Tokenized


class ClusterEngine(Tokenized):
    """`what` on the actors of a cluster; prompts are rendered here.

    Args:
        tokenizer: that of the model.
        folders: where the model lies, seen by all nodes.

    Raises:
        UserError: as `Cluster.load`.
    """

    def __init__(
        self,
        cluster: Cluster,
        what: Any,
        *,
        tokenizer: Any,
        folders: Sequence[Path],
    ) -> None:
        check_template(tokenizer)
        model = cluster.load(what, folders)
        self.name = model.name
        self.model_id = model.model_id
        self.model_digest = model.model_digest
        self.context = model.context
        self.tokenizer = tokenizer
        self.at_once = cluster.at_once
        self._cluster, self._what, self._folders = cluster, what, folders

    def stream(
        self,
        parts: Sequence[Sequence[str]],
        sampling: Sampling,
        on_done: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, list[list[Completion]]]]:
        """As `Cluster.stream`, of this model."""
        return self._cluster.stream(self._what, self._folders, parts, sampling, on_done)

    def generate(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        on_done: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """As the actors' engines, each of which gets some of the prompts."""
        parts = cut(prompts, sampling.n, self.at_once)
        asked = [[prompts[place] for place in part] for part in parts]
        made: dict[int, list[Completion]] = {}
        for number, answers in self.stream(asked, sampling, on_done):
            made |= zip(parts[number], answers, strict=True)
        return [made[place] for place in range(len(prompts))]

    def loglikelihoods(self, groups: Sequence[Sequence[Pair]]) -> list[list[tuple[float, bool]]]:
        """As `HFEngine.loglikelihood` of each group by itself, by whichever actor is free."""
        scored = dict(self._cluster.loglikelihoods(self._what, self._folders, groups))
        return [scored[place] for place in range(len(groups))]
