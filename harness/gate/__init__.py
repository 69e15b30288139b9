"""Gate models against regressions: plans and decisions, pure.

`gate` is what callers use: it runs the tests and examines the answers for alarms. No files, no
clock, and no randomness that a plan does not seed: who calls owns the side effects.
"""

from harness.gate.decision import decide
from harness.gate.entry import decide_again, gate, promote, with_alarms

__all__ = ["decide", "decide_again", "gate", "promote", "with_alarms"]
