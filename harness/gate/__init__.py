"""The regression gate: plans and decisions, pure.

No files, no clock, and no randomness that a plan does not seed: who calls owns the side effects.
"""

from harness.gate.decision import decide, promote, raise_alarms

__all__ = ["decide", "promote", "raise_alarms"]
