"""GSM8K: grade-school word problems, answered step by step; and SVAMP, GSM-Hard and GSM-Plus.

The last number that a response marks as its answer is compared as a number; lm-eval's two string
comparisons are metrics too. Source: Cobbe et al., "Training Verifiers to Solve Math Word
Problems", 2021 (arXiv 2110.14168). The variants: Patel et al. 2021, Gao et al. 2023, Li et al.
2024. An instance:

    {"question": "Ida has 3 boxes of 12 pens and gives 6 away. How many does she have left?",
     "answer": "She has 3 * 12 = <<3*12=36>>36 pens.\\n36 - 6 = <<36-6=30>>30 are left.\\n#### 30"}
"""

from tasks.data import SPLITS
from tasks.gsm8k.feedback import feedback
from tasks.gsm8k.items import gsm8k, gsm_hard, gsm_plus, svamp
from tasks.gsm8k.run_on import STOP
from tasks.gsm8k.scoring import METRICS, score
from tasks.task import Items, Task

__all__ = ["STOP", "TASKS"]


def _task(name: str, items: Items, splits: tuple[str, ...] = ("test",)) -> Task:
    return Task(
        name=name,
        version="2",
        metrics=METRICS,
        splits=splits,
        items=items,
        score=score,
        feedback=feedback,
        generation={"max_tokens": 1024, "temperature": 0.0, "stop": list(STOP)},
    )


TASKS = [
    _task("gsm8k", gsm8k, SPLITS),
    _task("svamp", svamp),
    _task("gsm_hard", gsm_hard),
    _task("gsm_plus", gsm_plus),
]
