"""Kafka through librdkafka: clients, topics, reading a partition, delivering, dead letters."""
