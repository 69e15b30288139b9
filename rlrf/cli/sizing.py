"""`rlrf plan` without a baseline: how many items does a gate need?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.log import say, show
from rlrf.cli.common import print_json

if TYPE_CHECKING:
    from harness.core.schema import Metric, Policy


def count_items(
    policy: Policy,
    *,
    discordance: float | None,
    sd: float | None,
    clusters: int | None,
    icc: float | None,
    svg_file: Path | None,
    json_: bool,
) -> None:
    """Print items against margin and power for the rules of `policy`; draw them on request."""
    from harness.core.outputs import PICTURE, check_optional_file
    from harness.gate import sizing
    from harness.render import sizing as render

    drawn = check_optional_file(svg_file, PICTURE, [])
    found, unanswered = sizing.size_tables(
        policy, _known(policy), discordance=discordance, sd=sd, clusters=clusters, icc=icc
    )
    if drawn:
        drawn.write(render.draw(found))
    if json_:
        tables = [one.model_dump(mode="json") for one in found]
        print_json({"tables": tables, "unanswered": unanswered})
        return
    show(render.tables(found))
    for rule in unanswered:
        say(f"Not counted: {rule}.")


def _known(policy: Policy) -> dict[tuple[str, str], Metric]:
    """Return the metrics of the policy's tasks that are installed, by task and name."""
    import tasks

    installed = {rule.task for rule in policy.rules} & set(tasks.names())
    return {
        (name, metric.name): metric for name in installed for metric in tasks.load(name).metrics
    }
