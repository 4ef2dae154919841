"""The limits of the server: sizes of batches, requests and the queue, and timeouts."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """
    Bounds the memory that requests take, and the time that they wait.

    Args:
        max_batch_tokens (`int`, *optional*):
            Tokens of the texts that are answered together. A longer text is answered alone. Default: as many as keep
            the machine busy.
        max_wait_ms (`float`, *optional*, defaults to 2):
            How long the first text of a batch waits for others, in milliseconds. Nothing waits while requests come one
            at a time.
        max_queue (`int`, *optional*, defaults to 1024): Texts that wait for their batch.
        max_texts (`int`, *optional*, defaults to 256): Texts or pairs in a request.
        max_characters (`int`, *optional*, defaults to 20,000): Characters of a text.
        max_body_mb (`float`, *optional*, defaults to 2): The body of a request, in 10^6 bytes.
        max_held_mb (`float`, *optional*, defaults to 64): The bodies of all open requests together, in 10^6 bytes.
        timeout_s (`float`, *optional*, defaults to 30): Seconds from the end of a request to its answer.
        body_timeout_s (`float`, *optional*, defaults to 10): Seconds for the body of a request to arrive.

    Raises:
        `ValueError`: If a limit is 0 or less or not finite, or if a request within the limits could never be accepted.
    """

    max_batch_tokens: int | None = None
    max_wait_ms: float = 2.0
    max_queue: int = 1_024
    max_texts: int = 256
    max_characters: int = 20_000
    max_body_mb: float = 2.0
    max_held_mb: float = 64.0
    timeout_s: float = 30.0
    body_timeout_s: float = 10.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if value is None or 0 < value < math.inf or (name == "max_wait_ms" and value == 0):
                continue
            if not -math.inf < value < math.inf:
                raise ValueError(f"--{name} is {value}; it must be finite.")
            raise ValueError(
                f"--{name} is {value}; it must be {'0 or more' if name == 'max_wait_ms' else 'more than 0'}."
            )
        if self.max_texts > self.max_queue:
            raise ValueError(
                f"--max_texts is {self.max_texts}, and --max_queue is {self.max_queue}: a request of so many texts "
                "would never find room. Raise --max_queue, or lower --max_texts."
            )
        if self.max_body_mb > self.max_held_mb:
            raise ValueError(
                f"--max_body_mb is {self.max_body_mb:g}, and all bodies together may have {self.max_held_mb:g}: a "
                "request of that size would never be accepted."
            )
