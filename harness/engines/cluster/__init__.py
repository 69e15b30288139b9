"""An engine on a Ray cluster: a fixed number of actors, each with an engine of its own.

Prompts travel to the actors in parts and completions come back as they are ready. A sample depends
on nothing but its prompt, its number and the seed, so that it does not matter which actor answers:
what an actor had under way when it was lost goes to others, and is the same.

Nothing but prompts, completions and names of folders travels. Weights are read by each node itself,
so that model folders lie where all nodes see them, under one path. A judge that is a model is
loaded like any other; its budget and its cache stay with the process that runs the loop. From there
a judge behind a server is asked too, concurrently, and what asks nobody is scored at hundreds of
answers a second.

Ray is the extra `rlrf-harness[ray]`, and is used by this package alone.
"""

from __future__ import annotations

from harness.engines.cluster.actors import TRIES, Cluster
from harness.engines.cluster.engine import ClusterEngine
from harness.engines.cluster.host import Pair

__all__ = ["TRIES", "Cluster", "ClusterEngine", "Pair"]
