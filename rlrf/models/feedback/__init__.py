"""Feedback models: language models that are trained to say what is wrong with an answer.

`cases` is what is learned from, `asking` what the model is asked and how its reply is read,
`training` learns, `model` gives feedback, `measure` says how well it agrees with the judge.
"""
