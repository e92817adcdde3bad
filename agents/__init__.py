"""What happens to an event, and the pure work behind it: decoding, fingerprint, decision.

`decode`, `fingerprint` and `decide` are pure: no Kafka, Faust, RocksDB, clock or environment.
"""
