"""The record: an append-only ledger that anyone can recompute, and the scores beside it."""

from harness.board.board import Board

__all__ = ["Board"]
