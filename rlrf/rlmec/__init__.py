"""RLMEC: reinforcement learning with minimum editing constraint (arXiv 2401.06081).

A teacher corrects wrong responses with few edits (`teacher`); a generative reward model learns to
do so (`rewriter`); how likely it finds each token of a response determines the token's reward
(`tokens`); and the policy model learns from rewards and edits (`rlrf.objectives.rlmec`). `stages`
keeps each step of a run on disk, `show` displays the results.
"""
