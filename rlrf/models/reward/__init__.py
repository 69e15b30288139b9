"""Reward models: learned from preferences, measured, and taught by their own labels.

`preferences` is what is learned from, `training` learns (TRL), `model` scores, `measure` says how
well, `self_labels` and `self_evolve` are self-evolved reward learning, `world` makes preferences
of the embedded world.
"""
