"""`rlrf report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.core.errors import UserError
from rlrf.cli import options
from rlrf.cli.options import FILE, FOLDER, PATH
from rlrf.cli.output import print_result


@click.command()
@click.argument("run", type=FOLDER, required=False)
@click.option("--baseline", type=PATH, help="Evaluations to compare with --candidate.")
@click.option("--candidate", type=PATH, help="As CANDIDATE of `rlrf gate`.")
@options.board_name
@options.selection
@options.rules
@click.option(
    "--judge-finding",
    "findings",
    type=FILE,
    multiple=True,
    help="What `rlrf judge check|compare|agree|calibrate|drift --json` printed; repeatable.",
)
@click.option(
    "--out", type=FILE, help="The page.  [default: RUN/report.html; else report.html here]"
)
@options.include_path
@options.as_json
def report(
    *,
    run: Path | None,
    baseline: Path | None,
    candidate: Path | None,
    name: str | None,
    selection: dict[str, Any],
    rules: dict[str, Any],
    findings: tuple[Path, ...],
    out: Path | None,
) -> None:
    """Write one HTML page on a finished RUN, or on two evaluations, with every answer in it.

    The page is a single file: no network, no server. It holds prompts and answers, so check who
    may read them before you share it. Two evaluations are gated as `rlrf gate` does.

    \b
    rlrf report runs/quickstart
    rlrf report --baseline evaluations/m0 --candidate evaluations/m1 --out report.html
    rlrf report --baseline before.csv --candidate after.csv --item id --metric correct
    """
    from harness.core.outputs import PAGE, check_file
    from harness.render.html import judge_findings

    reads = [run, baseline, candidate, rules["policy"], *rules["plans"], rules["drift"], *findings]
    place = out or (run / "report.html" if run is not None else Path("report.html"))
    written = check_file(place, PAGE, reads)
    judge = [judge_findings.read(path) for path in findings]
    if run is not None and not any(
        [baseline, candidate, name, *selection.values(), *rules.values()]
    ):
        from rlrf.report import report as page_of
        from rlrf.run import explain_other_version

        with explain_other_version(run):
            page = page_of(run, judge)
    elif run is None and baseline and candidate:
        page = _compare(baseline, candidate, name, rules, selection, judge)
    else:
        raise UserError(
            "Name a run, or two evaluations with --baseline and --candidate; "
            "`rlrf report --help` shows both."
        )
    written.write(page)
    print_result({"page": str(place), "bytes": place.stat().st_size}, place)


def _compare(
    baseline: Path,
    candidate: Path,
    name: str | None,
    rules: dict[str, Any],
    selection: dict[str, Any],
    judge: Any,
) -> str:
    from harness.render.html.comparison import compare
    from rlrf.gating import load_evaluation, load_sides

    how = options.read_rules(rules, selection=options.select(selection))
    source = load_evaluation(baseline, name) if name else baseline
    before, after = load_sides(source, candidate, how.tasks, how.selection)
    policy = how.policy_for(before)
    return compare(policy, before, after, judge, plan=how.plan, doubts=how.doubts)
