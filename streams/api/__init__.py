"""The HTTP API: POST /v1/match/ and what belongs to it."""
