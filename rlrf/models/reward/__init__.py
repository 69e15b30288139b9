"""Reward models: learned from preferences, measured, and taught by their own labels.

`preferences` reads training data, `training` trains (TRL), `model` scores, `rewarder` rewards the
samples of a run, `measure` measures quality, `self_evolve` is self-evolved reward learning.
"""
