"""Judges: language models that grade answers. Every call is asked once, and its reply is kept.

`config` reads the file that says how answers are judged, and opens the judge. `llm` puts a cache
and a budget around a backend, which is a chat server (`client`) or a model in this process
(`in_process`).
"""
