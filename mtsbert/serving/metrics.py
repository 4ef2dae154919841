"""What the server counts, in the text format of Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOKENS = (16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384)


class Metrics:
    """The counters of one server."""

    def __init__(self):
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "mtsbert_requests",
            "HTTP requests by path and status; none: the client had gone.",
            ["path", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "mtsbert_request_seconds",
            "Seconds from the headers of a request to the end of its response.",
            ["path"],
            registry=registry,
            buckets=SECONDS,
        )
        self.accepted = Counter("mtsbert_accepted", "Requests that got a place in the queue.", registry=registry)
        self.answered = Counter("mtsbert_answered", "Requests whose texts were all answered.", registry=registry)
        self.dropped = Counter("mtsbert_dropped", "Accepted requests that ran out of time.", registry=registry)
        self.cancelled = Counter(
            "mtsbert_cancelled", "Accepted requests that the end of the server cut off.", registry=registry
        )
        self.failed = Counter("mtsbert_failed", "Accepted requests that the model failed on.", registry=registry)
        self.batch_texts = Histogram(
            "mtsbert_batch_texts", "Texts or pairs of a batch.", registry=registry, buckets=TEXTS
        )
        self.batch_tokens = Histogram("mtsbert_batch_tokens", "Tokens of a batch.", registry=registry, buckets=TOKENS)
        self.batch_seconds = Histogram(
            "mtsbert_batch_seconds", "Seconds to answer a batch.", registry=registry, buckets=SECONDS
        )
        self._held = Gauge("mtsbert_held_bytes", "Bodies of open requests, in bytes.", registry=registry)
        self._queue = Gauge("mtsbert_queue_texts", "Texts or pairs that wait for a batch.", registry=registry)

    def watch(self, *, queue: Callable[[], int] | None = None, held: Callable[[], int] | None = None) -> None:
        """Sets from where the length of the queue and the size of the held bodies are read."""
        for gauge, read in ((self._queue, queue), (self._held, held)):
            if read is not None:
                gauge.set_function(read)

    def summary(self) -> str:
        """What has become of the requests that were accepted, in words."""
        accepted, answered, dropped, failed, cancelled = (
            round(self._registry.get_sample_value(f"mtsbert_{name}_total"))
            for name in ("accepted", "answered", "dropped", "failed", "cancelled")
        )
        return (
            f"{accepted:,} requests accepted, {answered:,} answered, {dropped:,} out of time, {failed:,} failed, "
            f"{cancelled:,} cut off."
        )

    def as_text(self) -> bytes:
        return generate_latest(self._registry)
