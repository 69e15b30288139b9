"""Read results of other tools as evaluations, so that they can be gated and published.

Each tool has a module with a `Reader`. Nothing here imports a tool. The reader of lm-eval is
`harness.evals.lm_eval_results`, next to what runs lm-eval.
"""

from harness.readers import deepeval, inspect_logs, nemo, promptfoo, table
from harness.readers.reader import Reader, Selection, Side

__all__ = ["ACCEPTED", "READERS", "Reader", "Selection", "Side"]

READERS: tuple[Reader, ...] = (
    inspect_logs.READER,
    promptfoo.READER,
    deepeval.READER,
    nemo.READER,
    table.READER,
)
ACCEPTED = (
    "folders that `rlrf eval` and `rlrf score` wrote, output of lm-eval, logs of Inspect, results "
    "of promptfoo, DeepEval and NeMo Evaluator, and tables (CSV, JSON lines, Parquet)"
)
