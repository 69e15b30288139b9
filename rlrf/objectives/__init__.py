"""Training of the policy: one file an objective, TRL's wherever TRL has it.

`fitting` is what all of them share, `dpo` learns from preference pairs, `sft` from responses,
`rrhf` from ranked ones.
"""
