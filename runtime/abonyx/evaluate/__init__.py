"""How well scores agree with labels: metrics, pictures, a report. Only this package needs the extra `evaluate`."""
