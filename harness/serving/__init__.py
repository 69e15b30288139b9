"""OpenAI-compatible servers, as judges and engines ask them: limits, retries, what they refuse."""
