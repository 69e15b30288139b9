"""Feedback models: language models trained to say what is wrong with a response.

`cases` reads training data, `training` trains, `model` gives feedback, `measure` measures how well
it agrees with the judge.
"""
