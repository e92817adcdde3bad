"""What tells people and machines how the processes do: metrics, probes, logs."""
