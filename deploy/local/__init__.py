"""What runs check-dedup on one machine: the environment's set-up and a real Kafka broker.

For development, the demo and the tests. Nothing that is deployed imports it.
"""
