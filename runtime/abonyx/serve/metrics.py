"""What the service counts, as Prometheus reads it. Names end in their unit."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from abonyx.errors import EngineError, RequestRefused

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The counters of one service; prometheus-client's global registry is left alone."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "abonyx_requests_total", "Requests answered", ["path", "method", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "abonyx_request_seconds",
            "Time from a request's head to the end of its answer",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.rejected = Counter(
            "abonyx_rejected_requests_total",
            "Requests answered with a problem, by reason",
            ["reason"],
            registry=registry,
        )
        self.rejected_records = Counter(
            "abonyx_rejected_records_total", "Records left out with on_invalid skip", registry=registry
        )
        self.sequences = Counter(
            "abonyx_sequences_total",
            "Sequences that were run; copies in one round count once",
            ["output"],
            registry=registry,
        )
        self.tokens = Counter(
            "abonyx_tokens_total", "Tokens of the sequences that were run, without padding", registry=registry
        )
        self.wait_seconds = Histogram(
            "abonyx_queue_wait_seconds",
            "Time from a request's place in the queue to its first batch",
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_sequences = Histogram(
            "abonyx_batch_sequences", "Sequences of a batch, including copies", buckets=_SEQUENCES, registry=registry
        )
        self.inference_seconds = Histogram(
            "abonyx_inference_seconds", "Time of one round of batches", buckets=_SECONDS, registry=registry
        )
        self.session_opens = Counter(
            "abonyx_session_opens_total", "Openings of the model, by outcome", ["outcome"], registry=registry
        )
        self._queued = (
            Gauge("abonyx_queue_sequences", "Sequences waiting", registry=registry),
            Gauge("abonyx_queue_requests", "Requests waiting or being scored", registry=registry),
        )
        self._ready = Gauge("abonyx_ready", "1 while requests are taken", registry=registry)
        ProcessCollector(registry=registry)  # process_resident_memory_bytes and others; only on Linux

    def watch(self, sequences: Callable[[], float], requests: Callable[[], float], ready: Callable[[], float]) -> None:
        """Read these gauges from the queue at each scrape."""
        for gauge, read in zip((*self._queued, self._ready), (sequences, requests, ready), strict=True):
            gauge.set_function(read)

    def count_rejected(self, error: EngineError) -> None:
        """Count a request that was answered with a problem: by the refusal's reason, else by the error's class."""
        reason = error.reason if isinstance(error, RequestRefused) else type(error).__name__
        self.rejected.labels(reason).inc()

    def exposition(self) -> bytes:
        """All metrics, as text in Prometheus' format."""
        return generate_latest(self._registry)
