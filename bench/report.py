"""How soon the page on 10,000 items opens in a browser.

    python bench/report.py --out report.json

Two evaluations of as many questions are compared by `harness.render.html.comparison.compare`, the
page is
written to disk, and headless Chromium opens it; the time is from navigation to the load event, as
the browser itself has it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import ratio
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

import tasks
from harness.core.schema import ModelRef, Policy, Rule, Sample
from harness.core.scored import ScoredEvaluation
from harness.evals.scoring import Generation, code_version, dataset_digest, score_samples
from harness.render.html.comparison import compare

LIMIT = 1.0  # seconds
LOADED = "const [t] = performance.getEntriesByType('navigation'); return t.loadEventEnd / 1000"


def answered(count: int, wrong: int) -> ScoredEvaluation:
    """A model that fails every `wrong`-th of `count` questions of mini_gsm8k."""
    task = tasks.load("mini_gsm8k")
    known = task.items("gate")
    items = [
        one.model_copy(update={"index": i, "prompt": f"{i + 1}. {one.prompt}"})
        for i in range(count)
        if (one := known[i % len(known)])
    ]
    samples = [
        Sample(
            task=task.name,
            item=item.digest,
            index=item.index,
            prompt=item.prompt,
            response=item.reference["answer"] if item.index % wrong else "#### 0",
            finish_reason="stop",
        )
        for item in items
    ]
    generation = Generation(
        task=task.name,
        split="gate",
        model=ModelRef(id=f"wrong on every {wrong}th", digest="0" * 64),
        engine="none",
        decoding={},
        prompt_digest="0" * 64,
        dataset_digest=dataset_digest(items),
        code_version=code_version(),
    )
    return score_samples(task, items, samples, generation)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    told = parser.parse_args()
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        sys.exit("chromium and chromedriver are not installed")
    options = ChromeOptions()
    options.binary_location = programs[0]
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    policy = Policy(rules=[Rule(task="mini_gsm8k", metric="accuracy", margin=0.05)])
    sides = [{"mini_gsm8k": answered(told.items, wrong)} for wrong in (3, 5)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(compare(policy, *sides), encoding="utf-8")
        browser = Chrome(options=options, service=Service(programs[1]))
        took = []
        for _ in range(told.rounds + 1):
            browser.get(path.as_uri())
            took.append((LIMIT, float(browser.execute_script(LOADED))))
        size = path.stat().st_size / 1e6
        browser.quit()
    claim = f"the page on {told.items:,} items opens within {LIMIT:g} s"
    row = {"claim": claim, **ratio.interval(took[1:]), "target": 1.0, "MB": round(size, 1)}
    ratio.publish([row], told.out)


if __name__ == "__main__":
    main()
