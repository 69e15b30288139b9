"""Train models, with one file per objective; TRL's trainer is used wherever TRL has one.

`dpo` learns from preference pairs, `sft` from responses, `rrhf` from ranked responses, and `rlmec`
from token rewards and rewrites. `job` describes a training job, `base` is what objectives share,
`launch` runs an objective in several processes.
"""
