"""How well scores agree with labels: metrics, pictures, a report. Alone in needing the extra `evaluate`."""
