"""`rlrf gate`."""

from __future__ import annotations

from pathlib import Path

import click

from rlrf.cli.common import EXIT, FILE, FOLDER, as_json, print_json


@click.command()
@click.argument("baseline", type=FOLDER)
@click.argument("candidate", type=FOLDER)
@click.option("--policy", type=FILE, help="YAML or JSON.  [default: see above]")
@click.option("--markdown", "markdown_file", type=FILE, help="Write the decision as Markdown.")
@click.option("--junit", "junit_file", type=FILE, help="Write the decision as JUnit XML.")
@as_json
def gate(
    *,
    baseline: Path,
    candidate: Path,
    policy: Path | None,
    markdown_file: Path | None,
    junit_file: Path | None,
    json_: bool,
) -> int:
    """Decide whether the evaluations in CANDIDATE are no worse than those in BASELINE.

    Exits 0 pass, 1 regression, 2 inconclusive, 3 error. Without a policy, the primary metric of
    every task is critical: it may not lose 5 % of its range, at level .05.

    \b
    rlrf gate evaluations/m0 evaluations/m1
    rlrf gate evaluations/m0 evaluations/m1 --policy policy.yaml --junit gate.xml
    """
    from harness import evaluation
    from harness.gate import decide
    from harness.render import junit, markdown
    from harness.settings import load_policy
    from harness.store import write_text
    from rlrf.config import default_policy

    before, after = evaluation.load(baseline), evaluation.load(candidate)
    primary = {
        task: metric
        for task, one in before.items()
        for metric in one.evaluation.definitions.values()
        if metric.primary
    }
    decision = decide(load_policy(policy) if policy else default_policy(primary), before, after)
    text = markdown.decision(decision)
    if markdown_file:
        write_text(markdown_file, text)
    if junit_file:
        write_text(junit_file, junit.decision(decision))
    print_json(decision.model_dump(mode="json")) if json_ else print(text)
    return EXIT[decision.verdict]
