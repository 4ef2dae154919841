"""Tests how requests become batches, and what happens to those that must wait, or for which there is no room."""

import asyncio
import re
import time

import pytest


pytest.importorskip("fastapi", reason="FastAPI is not installed (requirements-serve.txt)")

from mtsbert.serving.batching import Batcher
from mtsbert.serving.errors import Refusal
from mtsbert.serving.inference import Inference, Options
from mtsbert.serving.limits import Limits
from mtsbert.serving.metrics import Metrics
from tests.mtsbert.serving.servers import GatedInference, wait_until


BROKEN = "this text breaks the model"


def waiting(client, number: int) -> None:
    """Waits until so many texts are in the queue."""
    wait_until(lambda: client.metric("mtsbert_queue_texts") == number)


def test_what_arrives_during_a_batch_is_answered_together(serve):
    client, model = serve()
    model.gate.clear()
    first = client.later("/analyze", {"inputs": "first"})
    model.wait_for_batches(1)
    others = [client.later("/embed", {"inputs": ["a", "b"]}), client.later("/analyze", {"inputs": "c", "top_k": 1})]
    waiting(client, 3)
    model.gate.set()
    assert [reply.result().status for reply in (first, *others)] == [200] * 3
    assert [sorted(batch) for batch in model.batches] == [["first"], ["a", "b", "c"]]
    assert client.metric("mtsbert_batch_texts_sum") == 4


def test_a_batch_has_no_more_tokens_than_its_budget(serve, ask):
    client, model = serve(max_batch_tokens=16)
    texts = ["oslo " * number for number in (1, 2, 3, 30, 4, 5)]
    assert client.post("/embed", {"inputs": texts}).status == 200
    num_tokens = [[len(ask.tokenizer(text)["input_ids"]) for text in batch] for batch in model.batches]
    assert [text for batch in model.batches for text in batch] == texts  # in order, each once
    assert all(sum(batch) <= 16 or len(batch) == 1 for batch in num_tokens)
    assert num_tokens == [[3, 4, 5], [32], [6, 7]]


def test_a_budget_of_one_token_answers_every_text_alone(serve):
    client, model = serve(max_batch_tokens=1)
    client.post("/embed", {"inputs": ["a", "b", "c"]})
    assert model.batches == [["a"], ["b"], ["c"]]


def test_options_of_several_requests_take_as_few_calls_as_possible(ask, close):
    calls = []

    def counting(rows, **parameters):
        calls.append((rows, parameters))
        return ask(rows, **parameters)

    model = Inference(ask)
    wanted = [
        Options(tasks=("topic",)),
        Options(embeddings=True, tasks=()),
        Options(),
        Options(top_k=1),
        Options(threshold=(("ner", 0.2), ("topic", 0.9)), tasks=("topic",)),
        Options(threshold=(("ner", 0.2), ("topic", 0.9))),
    ]
    rows = ["Oslo beat Lima", "Lima", ("Oslo", "Lima"), "a", "b", "c"]
    model.pipeline = counting
    counting.model = ask.model
    answers = model(rows, wanted)
    assert [rows for rows, _ in calls] == [rows[:3], rows[3:4], rows[4:]]
    for row, options, answer in zip(rows, wanted, answers, strict=True):
        expected = ask(
            row,
            tasks=options.tasks,
            top_k=options.top_k,
            threshold=dict(options.threshold) if options.threshold else None,
            return_embeddings=options.embeddings,
        )
        found = {name: part.tolist() if name.endswith("embedding") else part for name, part in answer.items()}
        assert close(found, expected, 1e-5)


def test_tokens_are_those_of_the_whole_text_and_counting_changes_no_answer(ask, close):
    text = "Oslo beat Lima in the final. " * 30
    before = ask(text)
    model = Inference(ask)
    assert model.count_tokens(text) == len(ask.tokenizer(text)["input_ids"]) > ask.max_length
    assert model.count_tokens(("Oslo", "Lima")) == 6
    assert ask(text) == before


def test_one_text_at_a_time_waits_for_nothing(serve):
    """With every text waiting for others, each of these would take ten seconds."""
    client, _ = serve(max_wait_ms=10_000)
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        client.post("/embed", {"inputs": "a"})
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 0.5
    assert max(seconds) < 5


def test_a_request_alone_waits_for_nothing_after_one_of_several_texts(serve):
    client, _ = serve(max_wait_ms=20_000)
    assert client.post("/embed", {"inputs": ["a", "b", "c"]}).status == 200
    began = time.monotonic()
    assert client.post("/embed", {"inputs": "d"}).status == 200
    assert time.monotonic() - began < 10


def test_after_a_batch_of_several_requests_the_next_one_waits_for_more(serve):
    client, model = serve(max_wait_ms=20_000)  # but three requests are enough
    model.gate.clear()
    replies = [client.later("/embed", {"inputs": "first"})]
    model.wait_for_batches(1)
    replies += [client.later("/embed", {"inputs": text}) for text in ("a", "b", "c")]
    waiting(client, 3)
    model.gate.set()
    model.wait_for_batches(2)
    for text in ("d", "e", "f"):
        replies.append(client.later("/embed", {"inputs": text}))
        time.sleep(0.05)
    assert [reply.result().status for reply in replies] == [200] * 7
    assert [sorted(batch) for batch in model.batches] == [["first"], ["a", "b", "c"], ["d", "e", "f"]]


# What there is no room or no time for


def test_a_full_queue_refuses_and_says_when_to_come_back(serve):
    client, model = serve(max_queue=3, max_texts=3)
    model.gate.clear()
    first = client.later("/embed", {"inputs": "first"})
    model.wait_for_batches(1)
    second = client.later("/embed", {"inputs": ["a", "b"]})
    waiting(client, 2)
    refused = client.post("/embed", {"inputs": ["c", "d"]})
    assert refused.status == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert "2 texts are waiting; with the 2 of this request there would be over 3." in refused.reason
    third = client.later("/embed", {"inputs": "c"})  # for which there is room
    waiting(client, 3)
    model.gate.set()
    assert [reply.result().status for reply in (first, second, third)] == [200] * 3
    assert "d" not in [text for batch in model.batches for text in batch]


def test_what_could_not_be_answered_in_time_is_refused_at_once(serve):
    client, model = serve(timeout_s=36)
    model.seconds = 0.5
    for _ in range(2):  # so it answers two texts per second
        assert client.post("/embed", {"inputs": "a"}).status == 200
    model.seconds = 0.0
    model.gate.clear()
    first = client.later("/embed", {"inputs": "first"})
    model.wait_for_batches(3)
    second = client.later("/embed", {"inputs": ["b"] * 20})  # nobody waits before these
    waiting(client, 20)
    refused = client.post("/embed", {"inputs": "g"})
    assert refused.status == 429
    assert re.match(r"20 texts are waiting, for about \d+ s; a request has 36\. Try again later\.", refused.reason)
    assert int(refused.headers["retry-after"]) >= 10
    model.gate.set()
    assert [reply.result().status for reply in (first, second)] == [200, 200]
    assert client.post("/embed", {"inputs": "g"}).status == 200


def test_short_texts_are_not_expected_to_take_as_long_as_long_ones(serve):
    client, model = serve(timeout_s=36)
    model.seconds = 0.3
    for _ in range(2):
        assert client.post("/embed", {"inputs": "oslo " * 2_000}).status == 200
    model.seconds = 0.0
    model.gate.clear()
    first = client.later("/embed", {"inputs": "first"})
    model.wait_for_batches(3)
    second = client.later("/embed", {"inputs": ["b"] * 40})  # of long ones, these would take 12 s: too long
    waiting(client, 40)
    third = client.later("/embed", {"inputs": "g"})
    wait_until(lambda: third.done() or client.metric("mtsbert_queue_texts") == 41)
    model.gate.set()
    assert [reply.result().status for reply in (first, second, third)] == [200] * 3


def test_empty_texts_are_expected_to_take_time_too(serve):
    client, model = serve(timeout_s=36)
    model.seconds = 0.5
    assert client.post("/embed", {"inputs": ""}).status == 200
    model.gate.clear()
    first = client.later("/embed", {"inputs": ""})
    model.wait_for_batches(2)
    second = client.later("/embed", {"inputs": [""] * 20})
    waiting(client, 20)
    assert client.post("/embed", {"inputs": ""}).status == 429
    model.seconds = 0.0
    model.gate.set()
    assert [reply.result().status for reply in (first, second)] == [200, 200]


def test_a_request_out_of_time_leaves_the_queue(serve):
    client, model = serve(timeout_s=2)
    model.gate.clear()
    begun = client.later("/embed", {"inputs": "begun"})
    model.wait_for_batches(1)
    queued = client.later("/embed", {"inputs": ["never", "begun"]})
    replies = [begun.result(), queued.result()]
    assert [reply.status for reply in replies] == [504, 504]
    assert "No answer within 2 s" in replies[1].reason
    assert "retry-after" in replies[1].headers
    assert client.metric("mtsbert_queue_texts") == 0
    assert client.metric("mtsbert_dropped_total") == 2
    model.gate.set()
    wait_until(lambda: client.metric("mtsbert_batch_texts_sum") == 1)  # the thread is free
    assert client.post("/embed", {"inputs": "later"}).status == 200
    assert model.batches == [["begun"], ["later"]]


def check_only_the_broken_input_fails(client, model, caplog) -> None:
    model.gate.clear()
    first = client.later("/embed", {"inputs": "first"})
    model.wait_for_batches(1)
    good = client.later("/embed", {"inputs": ["a", "b"]})
    bad = client.later("/embed", {"inputs": ["c", BROKEN]})
    waiting(client, 4)
    model.gate.set()
    assert [reply.result().status for reply in (first, good, bad)] == [200, 200, 500]
    assert bad.result().reason == "The model failed on this input; the server's log has the reason."
    assert "The model failed on an input of 26 characters." in caplog.text


def test_an_input_that_breaks_the_model_harms_no_other(serve, caplog):
    client, model = serve()
    check_only_the_broken_input_fails(client, model, caplog)
    assert BROKEN not in caplog.text  # texts are nobody's business
    assert client.metric("mtsbert_failed_total") == 1
    assert client.post("/embed", {"inputs": "a"}).status == 200


def test_a_server_that_is_stopping_refuses_what_comes_then(ask):
    async def scenario() -> None:
        batcher = Batcher(Inference(ask), Limits(), Metrics())
        batcher.start()
        assert batcher.is_running
        await asyncio.to_thread(batcher.close)
        assert not batcher.is_running
        await batcher.answer(["a"], Options())

    with pytest.raises(Refusal, match="The server is stopping") as refusal:
        asyncio.run(scenario())
    assert refusal.value.status == 503


def test_a_request_that_is_cut_off_is_not_counted_as_out_of_time(ask):
    metrics = Metrics()

    async def scenario() -> None:
        model = GatedInference(ask)
        model.gate.clear()
        batcher = Batcher(model, Limits(), metrics)
        batcher.start()
        begun = asyncio.create_task(batcher.answer(["begun"], Options()))
        await asyncio.to_thread(model.wait_for_batches, 1)
        queued = asyncio.create_task(batcher.answer(["queued"], Options()))
        await asyncio.sleep(0)
        for request in (begun, queued):
            request.cancel()
        await asyncio.gather(begun, queued, return_exceptions=True)
        model.gate.set()
        await asyncio.to_thread(batcher.close)
        assert model.batches == [["begun"]]

    asyncio.run(scenario())
    assert metrics.summary() == "2 requests accepted, 0 answered, 0 out of time, 0 failed, 2 cut off."


def test_what_is_in_the_queue_is_answered_before_the_thread_ends(ask):
    async def scenario() -> list:
        model = GatedInference(ask)
        model.gate.clear()
        batcher = Batcher(model, Limits(max_batch_tokens=1), Metrics())
        batcher.start()
        waiting = asyncio.gather(*(batcher.answer([text], Options()) for text in ("a", "b", "c")))
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        while batcher.is_running:
            await asyncio.sleep(0.01)
        model.gate.set()
        await closing
        return [job.answers for job in await waiting]

    assert [len(answers) for answers in asyncio.run(scenario())] == [1, 1, 1]


def test_an_input_that_breaks_the_tokenizer_harms_no_other(serve, caplog):
    client, model = serve()
    count = model.count_tokens
    model.count_tokens = lambda row: 1 // (row != BROKEN) * count(row)
    check_only_the_broken_input_fails(client, model, caplog)
    assert client.post("/embed", {"inputs": BROKEN}).status == 500  # also as the first of a batch
    assert client.metric("mtsbert_failed_total") == 2
    assert client.post("/embed", {"inputs": "a"}).status == 200
    assert client.get("/ready").status == 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_whose_thread_has_died_refuses_and_says_so(serve):
    def end_thread(row):
        raise SystemExit  # which nothing catches

    client, model = serve(timeout_s=2)
    assert client.get("/health").status == 200
    model.count_tokens = end_thread
    assert client.post("/embed", {"inputs": "a"}).status == 504
    wait_until(lambda: client.get("/health").status == 503)
    reply = client.post("/embed", {"inputs": "a"})
    assert reply.status == 503
    assert reply.reason == "The thread that runs the model has died; the server must be started again."
    assert client.metric("mtsbert_accepted_total") == 1
    assert client.get("/ready").status == 503
    assert client.get("/health").status == 503


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_queue": 0}, "--max_queue is 0; it must be more than 0"),
        ({"max_wait_ms": -1.0}, "--max_wait_ms is -1.0; it must be 0 or more"),
        ({"timeout_s": float("nan")}, "--timeout_s is nan; it must be finite"),
        ({"timeout_s": float("inf")}, "--timeout_s is inf; it must be finite"),
        ({"max_wait_ms": float("inf")}, "--max_wait_ms is inf; it must be finite"),
        ({"max_body_mb": float("-inf")}, "--max_body_mb is -inf; it must be finite"),
        ({"max_texts": 9, "max_queue": 8}, "--max_texts is 9, and --max_queue is 8: a request of so many texts"),
        ({"max_body_mb": 65}, "--max_body_mb is 65, and all bodies together may have 64"),
    ],
)
def test_impossible_limits_are_refused(limits, reason):
    with pytest.raises(ValueError, match=reason):
        Limits(**limits)
    assert Limits(max_wait_ms=0).max_wait_ms == 0
