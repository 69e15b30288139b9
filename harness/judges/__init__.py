"""Judges: language models that grade answers, asked once and remembered.

`harness.judges.config` reads the file that says how answers are judged and opens the judge;
`LLMJudge` (`llm`) puts a cache and a budget around a backend, which is a chat server (`client`) or
a model in this process (`in_process`).
"""
