"""Ask OpenAI-compatible servers, for judges and engines: limits, retries, untrusted replies."""
