"""`rlrf report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from harness.core.log import show
from rlrf.cli.common import FILE, FOLDER, PATH, as_json, margins, print_json


@click.command()
@click.argument("run", type=FOLDER, required=False)
@click.option("--baseline", type=PATH, help="An evaluation folder, to compare with --candidate.")
@click.option("--candidate", type=PATH, help="An evaluation folder.")
@click.option("--name", help="Which model, where --baseline is a leaderboard.")
@click.option("--policy", type=FILE, help="YAML or JSON, for --candidate.  [default: as `gate`]")
@margins
@click.option("--plan", type=FILE, help="What `rlrf plan` wrote, for --candidate.")
@click.option("--drift", type=FILE, help="What `rlrf judge drift --json` printed, as in `gate`.")
@click.option(
    "--judge-finding",
    "findings",
    type=FILE,
    multiple=True,
    help="What `rlrf judge check|compare|agree|calibrate|drift --json` printed; may be repeated.",
)
@click.option(
    "--out", type=FILE, help="The page.  [default: RUN/report.html; else report.html here]"
)
@as_json
def report(
    *,
    run: Path | None,
    baseline: Path | None,
    candidate: Path | None,
    name: str | None,
    policy: Path | None,
    margin_texts: Sequence[str],
    plan: Path | None,
    drift: Path | None,
    findings: Sequence[Path],
    out: Path | None,
    json_: bool,
) -> None:
    """Write one HTML page on a finished RUN, or on two evaluations, with every answer in it.

    The page is a single file: no network, no server. It holds prompts and answers; mind who
    may read them before you share it.

    \b
    rlrf report runs/quickstart
    rlrf report --baseline evaluations/m0 --candidate evaluations/m1 --out report.html
    """
    from harness.core.errors import UserError
    from harness.core.outputs import PAGE, check_file
    from harness.render.html import judge_findings

    reads = [run, baseline, candidate, policy, plan, drift, *findings]
    place = out or (run / "report.html" if run is not None else Path("report.html"))
    written = check_file(place, PAGE, reads)
    judge = [judge_findings.read(path) for path in findings]
    of_two = (baseline, candidate, name, policy, margin_texts, plan, drift)
    if run is not None and not any(of_two):
        from rlrf.report import report as page_of
        from rlrf.run import explain_other_version

        with explain_other_version(run):
            page = page_of(run, judge)
    elif run is None and baseline and candidate:
        from harness.gate.policy import parse_margins
        from harness.render.html.comparison import compare
        from rlrf.gating import load_evaluation, load_sides, read_rules

        rules = read_rules(policy, plan, parse_margins(margin_texts), drift=drift)
        source = load_evaluation(baseline, name) if name else baseline
        before, after = load_sides(source, candidate, rules.tasks)
        # Not next to the evaluation: in a run that folder is a stage, whose files are checked.
        page = compare(
            rules.policy_for(before)[0], before, after, judge, plan=rules.plan, doubts=rules.doubts
        )
    else:
        raise UserError(
            "Name a run, or two evaluation folders with --baseline and --candidate; "
            "`rlrf report --help` shows both."
        )
    written.write(page)
    if json_:
        print_json({"page": str(place), "bytes": place.stat().st_size})
    else:
        show(place)
