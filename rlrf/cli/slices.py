"""`rlrf slices`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.core.errors import UserError
from harness.core.log import say
from rlrf.cli import options
from rlrf.cli.options import FOLDER
from rlrf.cli.output import print_result

if TYPE_CHECKING:
    from harness.core.scored import ScoredEvaluation


@click.command("slices")
@click.argument("evaluation", type=FOLDER)
@click.option("--by", help="The kind of tag.  [default: list the kinds; with --cluster: all items]")
@options.cluster
@click.option("--metrics", help="By comma, or 'all'.  [default: the primary one]")
@options.as_json
def slices(evaluation: Path, by: str | None, cluster: str | None, metrics: str | None) -> None:
    """Show the metrics of subgroups of EVALUATION: by topic, rarity, or any other tag of its items.

    Every tag of an item counts. If items share a passage, entity or template, name it with
    --cluster: intervals then allow for it.

    \b
    rlrf slices evaluations/mine/just_eval
    rlrf slices evaluations/mine/just_eval --by topic --metrics overall,depth
    rlrf slices evaluations/mine/gsm8k --by steps --metrics pass@4,maj@8
    rlrf slices evaluations/mine/factscore --cluster entity
    """
    from harness.evals.evaluation import load_single
    from harness.render.table import ALL_ITEMS, subgroup_table
    from harness.stats.intervals import aggregate, subgroups
    from harness.stats.repeats import with_repeat_metrics

    scored = load_single(evaluation)
    kinds = sorted({kind for item in scored.items for kind in item.tags})
    if by is None and cluster is None:
        print_result(kinds, "\n".join(kinds) or "The items carry no tags.")
        return
    if by is not None and by not in kinds:
        raise UserError(f"The items carry no tag '{by}'; they have {', '.join(kinds) or 'none'}.")
    names = _choose(metrics, scored)
    scored = with_repeat_metrics(scored, names)
    known = scored.evaluation.definitions
    clusters = _number_clusters(scored, cluster) if cluster else None
    if by is None:
        results = {ALL_ITEMS: aggregate(scored.scores, known, clusters)}
    else:
        results = subgroups(scored.items, scored.scores, by, known, clusters)
    shown = {tag: {n: found[n] for n in names if n in found} for tag, found in results.items()}
    print_result(shown, subgroup_table(results, names))


def _choose(metrics: str | None, scored: ScoredEvaluation) -> list[str]:
    from harness.stats.repeats import can_count

    known = scored.evaluation.definitions
    if metrics is None:
        return [name for name, metric in known.items() if metric.primary]
    names = list(known) if metrics == "all" else options.names(metrics)
    if strangers := [n for n in names if n not in known and not can_count(n, known)]:
        raise UserError(f"There is no metric '{strangers[0]}'; there are {', '.join(known)}.")
    return names


def _number_clusters(scored: ScoredEvaluation, key: str) -> dict[str, int]:
    """Number the cluster of each item, and say where clusters tell nothing."""
    from harness.gate.clusters import number_items

    numbers = number_items(scored.evaluation.task, key, scored.items)
    count = len({*numbers.values()})
    if count == 1:
        say(
            f"All items have one value of '{key}': one cluster shows no spread, so there is no "
            "interval. Name something that divides the items."
        )
    elif count == len(numbers):
        say(f"Each item is alone in its '{key}', so clusters change nothing.")
    return numbers
