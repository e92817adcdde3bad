"""What the product runs on: Kafka and Faust apps, settings, the index, delivery order, the CLI."""
