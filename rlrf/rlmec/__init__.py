"""RLMEC: reinforcement learning with minimum editing constraint (arXiv 2401.06081).

A teacher puts wrong responses right, changing little (`teacher`); a generative reward model learns
to do that (`rewriter`); how likely it finds each token of a response is the token's reward
(`rewards`); and the policy learns from the rewards and from the edits (`training`). `stages` keeps
each step of a run on disk, `show` draws what came of it.
"""
