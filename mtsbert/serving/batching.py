"""Dynamic batching: the texts of all requests wait in one queue, and one thread answers them in batches."""

import asyncio
import logging
import math
import time
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from threading import TIMEOUT_MAX, Condition, Thread

from mtsbert.serving.errors import STOPPING, Refusal
from mtsbert.serving.inference import Inference, Options, Row
from mtsbert.serving.limits import Limits
from mtsbert.serving.metrics import Metrics


DECAY = 0.8  # of the characters and seconds of earlier batches, with every batch
TEXT_OVERHEAD = 50  # of a text, in characters. For a MiniLM on a CPU: about 100 alone, 3 in a full batch
WAITING_SHARE = 0.25  # of a request's time that the texts before it may take; above that it is not accepted
DIED = "The thread that runs the model has died; the server must be started again."
FAILED = "The model failed on this input; the server's log has the reason."

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Job:
    """The inputs of one request, and what has been answered of them."""

    rows: list[Row]
    options: Options
    future: asyncio.Future
    answers: list[dict | None] = field(init=False)
    num_tokens: int = 0  # of the inputs that have been answered
    error: Exception | None = None

    def __post_init__(self):
        self.answers = [None] * len(self.rows)

    @property
    def is_done(self) -> bool:
        return self.error is not None or None not in self.answers


@dataclass(eq=False)
class Item:
    """One input in the queue."""

    job: Job
    index: int
    arrived: float
    num_tokens: int | None = None  # counted when it is considered for a batch

    @property
    def row(self) -> Row:
        return self.job.rows[self.index]

    @cached_property
    def cost(self) -> int:
        """What it takes to answer the input, in characters: unlike tokens, these are known without counting."""
        texts = [self.row] if isinstance(self.row, str) else self.row
        return sum(len(text) + TEXT_OVERHEAD for text in texts)


class Batcher:
    """
    A bounded queue of inputs and the thread that answers them. Methods are called from the event loop.

    A batch holds the inputs that have waited longest, up to `max_batch_tokens`. While it is answered, the next one
    gathers by itself. When the thread is free, it waits for more, at most `max_wait_ms`, as long as the batch has
    inputs of fewer requests than the last one: under load that fills batches, and without load nobody waits.

    A request is accepted only if its inputs have room in the queue and can be expected to be answered in time, by how
    fast the last batches were.

    Args:
        inference ([`Inference`]): The model.
        limits ([`Limits`]): Bounds of a batch and of the queue.
        metrics ([`Metrics`]): Where batches and requests are counted.
    """

    def __init__(self, inference: Inference, limits: Limits, metrics: Metrics):
        self._inference, self._limits, self._metrics = inference, limits, metrics
        self._max_tokens = limits.max_batch_tokens or inference.default_batch_tokens
        self._waiting: deque[Item] = deque()
        self._changed = Condition()
        self._is_closing = False
        self._last_num_jobs = 1
        self._recent_cost, self._recent_seconds = 0.0, 0.0  # of the last batches
        self._thread = Thread(target=self._run, name="inference", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        metrics.watch(queue=lambda: len(self._waiting))

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive() and not self._is_closing

    @property
    def has_died(self) -> bool:
        """Whether the thread has ended although the server is not stopping."""
        return self._thread.ident is not None and not self._thread.is_alive() and not self._is_closing

    async def answer(self, rows: list[Row], options: Options) -> Job:
        """
        Answers the inputs of a request, of which there must be at least one.

        Raises:
            [`Refusal`]: With status 429 if the queue is full, 504 if the time is up, 500 if the model fails, and 503
                if the server is stopping or its thread has died.
        """
        job = self._put(rows, options)
        try:
            return await asyncio.wait_for(job.future, self._limits.timeout_s)
        except asyncio.CancelledError:
            self._drop(job)
            self._metrics.cancelled.inc()
            raise
        except asyncio.TimeoutError:
            self._drop(job)
            self._metrics.dropped.inc()
            raise Refusal(
                504,
                f"No answer within {self._limits.timeout_s:g} s, since others were first. Send the request again, or "
                "start the server with a higher --timeout_s.",
                self._retry_after(),
            ) from None

    def close(self) -> None:
        """Answers what is in the queue, and ends the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _put(self, rows: list[Row], options: Options) -> Job:
        job = Job(rows, options, self._loop.create_future())
        with self._changed:
            if self._is_closing:
                raise Refusal(503, STOPPING)
            if not self._thread.is_alive():
                raise Refusal(503, DIED)
            if (reason := self._reason_to_refuse(len(rows))) is not None:
                raise Refusal(429, f"{reason} Try again later.", self._retry_after())
            now = time.monotonic()
            self._waiting.extend(Item(job, index, now) for index in range(len(rows)))
            self._changed.notify()
        self._metrics.accepted.inc()
        return job

    def _drop(self, job: Job) -> None:
        with self._changed:
            self._waiting = deque(item for item in self._waiting if item.job is not job)

    def _reason_to_refuse(self, num_rows: int) -> str | None:
        """Why so many more inputs are too many now; None if they are not."""
        length, seconds, limits = len(self._waiting), self._seconds_to_wait(), self._limits
        if length + num_rows > limits.max_queue:
            most = limits.max_queue
            return f"{length} texts are waiting; with the {num_rows} of this request there would be over {most}."
        if seconds > WAITING_SHARE * limits.timeout_s:
            return f"{length} texts are waiting, for about {seconds:.0f} s; a request has {limits.timeout_s:g}."
        return None

    def _seconds_to_wait(self) -> float:
        """How long the texts in the queue take, as far as is known."""
        with self._changed:
            if not self._recent_cost:
                return 0.0
            return sum(item.cost for item in self._waiting) * self._recent_seconds / self._recent_cost

    def _retry_after(self) -> dict[str, str]:
        return {"Retry-After": str(max(1, math.ceil(self._seconds_to_wait())))}

    # In the thread

    def _run(self) -> None:
        while batch := self._next_batch():
            began = time.monotonic()
            self._answer(batch)
            self._count(batch, time.monotonic() - began)
            done = dict.fromkeys(item.job for item in batch if item.job.is_done)
            self._loop.call_soon_threadsafe(self._deliver, list(done))

    def _next_batch(self) -> list[Item]:
        """The next inputs to answer together. Empty once the server is stopping and nothing is left."""
        batch: list[Item] = []
        jobs: set[Job] = set()
        num_tokens, deadline = 0, math.inf
        while (item := self._pop(deadline, has_enough=len(jobs) >= self._last_num_jobs)) is not None:
            if item.num_tokens is None and not self._count_tokens(item):
                continue
            if batch and num_tokens + item.num_tokens > self._max_tokens:
                with self._changed:
                    self._waiting.appendleft(item)
                break
            batch.append(item)
            jobs.add(item.job)
            num_tokens += item.num_tokens
            deadline = batch[0].arrived + self._limits.max_wait_ms / 1_000
        self._last_num_jobs = len(jobs)
        return batch

    def _pop(self, deadline: float, *, has_enough: bool) -> Item | None:
        """The input that has waited longest; None if there is none and the batch should not wait for one."""
        with self._changed:
            while not self._waiting:
                seconds = deadline - time.monotonic()
                if has_enough or self._is_closing or seconds <= 0:
                    return None
                self._changed.wait(min(seconds, TIMEOUT_MAX))
            return self._waiting.popleft()

    def _count_tokens(self, item: Item) -> bool:
        """Counts the tokens of an input. Returns `False` if the tokenizer fails, and so does the request."""
        try:
            item.num_tokens = self._inference.count_tokens(item.row)
        except Exception as error:  # as in `_answer`
            self._fail(item, error)
            self._loop.call_soon_threadsafe(self._deliver, [item.job])
            return False
        return True

    def _answer(self, batch: list[Item]) -> None:
        """Answers a batch. If the model fails on it, each input is tried alone, so that only the bad ones fail."""
        try:
            answers = self._inference([item.row for item in batch], [item.job.options for item in batch])
        except Exception as error:  # whatever it is, the other requests and the thread must survive it
            if len(batch) > 1:
                for item in batch:
                    self._answer([item])
                return
            self._fail(batch[0], error)
            return
        for item, answer in zip(batch, answers, strict=True):
            item.job.answers[item.index] = answer
            item.job.num_tokens += item.num_tokens

    def _fail(self, item: Item, error: Exception) -> None:
        logger.error("The model failed on an input of %s characters.", len("".join(item.row)), exc_info=error)
        item.job.error = error

    def _count(self, batch: list[Item], seconds: float) -> None:
        with self._changed:
            self._recent_cost = DECAY * self._recent_cost + sum(item.cost for item in batch)
            self._recent_seconds = DECAY * self._recent_seconds + seconds
        self._metrics.batch_texts.observe(len(batch))
        self._metrics.batch_tokens.observe(sum(item.num_tokens for item in batch))
        self._metrics.batch_seconds.observe(seconds)

    # In the event loop

    def _deliver(self, jobs: list[Job]) -> None:
        for job in jobs:
            if job.future.done():  # the time was up
                continue
            if job.error is None:
                job.future.set_result(job)
                self._metrics.answered.inc()
            else:
                self._metrics.failed.inc()
                job.future.set_exception(Refusal(500, FAILED))
                self._drop(job)
