"""The contract: records, topics and reason codes that Check, subscribers and we agree on.

Depends on nothing of ours. `records` has the typed records, `topics` the topic declarations,
`codec` the only way from bytes to a record and back, `publish` the generated JSON Schemas.
"""
