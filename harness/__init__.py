"""Run, judge, record, compare, gate, publish: the evaluation half of the project."""
