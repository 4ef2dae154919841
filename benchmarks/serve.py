"""Loads `mtsbert serve` from clients on the same machine: throughput with and without batching, latency and overload.

python benchmarks/serve.py --model runs/ag_news_minilm

- throughput: 16 clients that send one short text after another, to a server with batching and to the same server with
  a batch of one text (`--max_batch_tokens 1`), in alternating rounds;
- latency: one client alone, and requests at random times at half of the rate that saturates the server;
- answers: 10,000 requests from 16 clients, compared with the pipeline's;
- overload: ten times the saturating rate of texts of ordinary length, and then SIGTERM while it goes on.

Short texts are headlines of 3 to 5 words. The clients share the machine with the server.
"""

import argparse
import asyncio
import itertools
import random
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch
from http_load import Reply, closed_loop, open_loop
from quality import ROOT, write_report


sys.path.insert(0, str(ROOT))

from mtsbert.exports.pipeline import load_pipeline
from mtsbert.machine import has_native_bf16


NUM_CLIENTS = 16
BATCHED, ALONE = "batches across requests", "every text alone"
SUBJECTS = "Oslo Lima Kenya Nokia Intel Chelsea Brazil Oracle London Microsoft".split()
VERBS = "beats wins buys sells leaves joins hits cuts".split()
OBJECTS = "final price market Paris deal city record profit".split()
ENDS = ("again", "on Sunday", "in court", "", "")
TOLERANCE = 1e-5
MOST_PARAGRAPHS = 1_000  # different ones whose answers are compared


@dataclass
class Server:
    """A running `mtsbert serve`."""

    process: subprocess.Popen
    port: int

    @property
    def memory_mb(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def num_answered(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as response:
            lines = response.read().decode().splitlines()
        return next(round(float(line.split()[1])) for line in lines if line.startswith("mtsbert_answered_total "))

    def stop(self) -> str:
        """Sends SIGTERM. Returns the last line of the output."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.stdout.read().strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="Checkpoint.")
    parser.add_argument("--repeats", type=int, default=11, help="Rounds of each measurement.")
    parser.add_argument("--seconds", type=float, default=3.0, help="Duration of a round.")
    parser.add_argument("--requests", type=int, default=10_000, help="Requests whose answers are compared.")
    parser.add_argument("--overload_seconds", type=float, default=60.0)
    args = parser.parse_args()
    figures: dict = {"threads": torch.get_num_threads()}  # of the servers too
    with serving(args.model) as server, serving(args.model, "--max_batch_tokens", "1") as unbatched:
        show(figures, throughput({BATCHED: server, ALONE: unbatched}, args.repeats, args.seconds))
    with serving(args.model) as server:
        show(figures, latency(server, args.repeats, args.seconds))
        show(figures, answers(server, args.model, args.requests))
    with serving(args.model) as server:
        show(figures, overload(server, args.overload_seconds, args.seconds))
    subject = None if has_native_bf16() else "without_bf16"
    sys.stdout.write(f"Written to {write_report('serve', subject, figures)}\n")


def show(figures: dict, more: dict) -> None:
    """Adds figures to others, and prints them."""
    figures |= more
    for name, value in more.items():
        sys.stdout.write(f"{name}: {value}\n")
    sys.stdout.flush()


@contextmanager
def serving(model: str, *flags: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "mtsbert", "serve", "--model", model, "--port", "0", *flags]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://[\d.]+:(\d+)", process.stdout.readline())
        yield Server(process, int(address[1]))
    finally:
        process.kill()
        process.wait()


def headlines(seed: int) -> Iterator[str]:
    chance = random.Random(seed)
    while True:
        yield " ".join(f"{' '.join(map(chance.choice, (SUBJECTS, VERBS, OBJECTS, ENDS)))}".split())


def paragraphs(seed: int) -> Iterator[str]:
    """Texts of five headlines, about as long as an item of news."""
    source = headlines(seed)
    while True:
        yield ". ".join(itertools.islice(source, 5))


def requests(texts: Iterator[str]) -> Iterator[dict]:
    return ({"inputs": text} for text in texts)


def rate_of(server: Server, texts: Iterator[str], seconds: float, num_clients: int = NUM_CLIENTS) -> float:
    """Answers per second of a server whose clients each send as fast as they are answered."""
    found = closed_loop(server.port, "/analyze", requests(texts), num_clients=num_clients, seconds=seconds)
    began = time.perf_counter()
    replies = [reply for _, reply in asyncio.run(found)]
    assert {reply.status for reply in replies} == {200}
    return len(replies) / (time.perf_counter() - began)


def p95(replies: list[Reply]) -> float:
    """In milliseconds."""
    return 1_000 * statistics.quantiles([reply.seconds for reply in replies], n=20)[-1]


def throughput(servers: dict[str, Server], repeats: int, seconds: float) -> dict:
    rates: dict[str, list[float]] = {name: [] for name in servers}
    for repeat in range(-1, repeats):  # the first round warms up
        for name, server in servers.items():
            rate = rate_of(server, headlines(repeat), seconds)
            if repeat >= 0:
                rates[name].append(rate)
    ratios = [batched / alone for batched, alone in zip(rates[BATCHED], rates[ALONE], strict=True)]
    return {"requests_per_second": rates, "throughput_ratio": ratios}


def latency(server: Server, repeats: int, seconds: float) -> dict:
    """The 95th percentile of each round, in milliseconds, alone and at half of the round's own saturating rate."""
    found: dict[str, list[float]] = {"one request alone": [], "half of the saturating load": []}
    rates = []
    for repeat in range(repeats):
        loop = closed_loop(server.port, "/analyze", requests(headlines(repeat)), num_clients=1, seconds=seconds)
        found["one request alone"].append(p95([reply for _, reply in asyncio.run(loop)]))
        rates.append(rate_of(server, headlines(repeat), seconds) / 2)
        loop = open_loop(
            server.port, "/analyze", requests(headlines(repeat)), rate=rates[-1], seconds=seconds, seed=repeat
        )
        found["half of the saturating load"].append(p95([reply for _, reply in asyncio.run(loop)]))
    alone, at_half = found.values()
    ratios = [busy / idle for busy, idle in zip(at_half, alone, strict=True)]
    return {"p95_ms": found, "half_load_requests_per_second": rates, "p95_ratio": ratios}


def answers(server: Server, model: str, number: int) -> dict:
    """Compares answers over HTTP with those of the pipeline, which gets all texts in one call."""
    long = list(itertools.islice(paragraphs(0), min(MOST_PARAGRAPHS, number // 2)))
    texts = [
        *itertools.islice(headlines(0), number - number // 2),
        *itertools.islice(itertools.cycle(long), number // 2),
    ]
    random.Random(0).shuffle(texts)
    contents = [{"inputs": text, "return_embeddings": True} for text in texts]
    exchanged = asyncio.run(closed_loop(server.port, "/analyze", iter(contents), num_clients=NUM_CLIENTS))
    different = list(dict.fromkeys(texts))
    expected = dict(zip(different, load_pipeline(model)(different), strict=True))
    wrong, largest = 0, 0.0
    for content, reply in exchanged:
        difference = difference_of(reply.json(), expected[content["inputs"]]) if reply.status == 200 else float("inf")
        wrong += difference > TOLERANCE
        largest = max(largest, difference)
    return {
        "compared_requests": len(contents),
        "lost_requests": len(contents) - len(exchanged),
        "wrong_answers": wrong,
        "largest_difference": largest,
    }


def difference_of(one: object, other: object) -> float:
    """The largest difference of two numbers at the same place of two answers; infinite if anything else differs."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other)
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((difference_of(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(difference_of, one, other), default=0.0)
    return 0.0 if one == other else float("inf")


def overload(server: Server, seconds: float, seconds_to_measure: float) -> dict:
    """Sends ten times as many requests as the server can answer, and SIGTERM five seconds before the end."""
    saturating = rate_of(server, paragraphs(1), seconds_to_measure)
    answered_before = server.num_answered()
    memory, last_lines = [server.memory_mb], []

    async def attack() -> list[tuple[object, Reply]]:
        load = asyncio.create_task(
            open_loop(server.port, "/analyze", requests(paragraphs(2)), rate=10 * saturating, seconds=seconds)
        )
        end = time.perf_counter() + seconds - 5
        while time.perf_counter() < end:
            await asyncio.sleep(0.2)
            memory.append(server.memory_mb)
        last_lines.append(await asyncio.to_thread(server.stop))
        return await load

    statuses = Counter(reply.status for _, reply in asyncio.run(attack()))
    after_stop = statuses.pop(0)  # refused connections
    accepted, answered = (int(number.replace(",", "")) for number in re.findall(r"[\d,]+\d|\d", last_lines[0])[:2])
    return {
        "overload": {
            "saturating requests/s": saturating,
            "requests/s that were sent": statuses.total() / (seconds - 5),
            "memory before, MB": memory[0],
            "memory at most, MB": max(memory),
            "accepted": accepted - answered_before,
            "answered": answered - answered_before,
            "answers that arrived": statuses[200],
            "refused with 429": statuses[429],
            "out of time, 504": statuses[504],
            "other statuses": statuses.total() - statuses[200] - statuses[429] - statuses[504],
            "after the port was closed": after_stop,
        }
    }


if __name__ == "__main__":
    main()
