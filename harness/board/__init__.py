"""Leaderboards: an append-only ledger that anyone can recompute, with the scores next to it."""

from harness.board.board import Board

__all__ = ["Board"]
