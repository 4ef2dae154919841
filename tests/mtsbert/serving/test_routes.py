"""Tests that the server answers as the pipeline does, and what it says to requests that are wrong."""

import random

import pytest

from tests.conftest import ROWS


TEXTS = [text for text, _, _ in ROWS]
PAIR = {"text": "Oslo beat Lima", "text_pair": "Lima hosts the race"}


def test_analyze_gives_what_the_pipeline_gives(server, ask, close):
    found = server.post("/analyze", {"inputs": [*TEXTS, PAIR, ""], "return_embeddings": True})
    assert found.status == 200
    assert close(found.json, ask([*TEXTS, PAIR, ""]), 1e-5)
    assert list(found.json[0]) == list(ask(TEXTS[0]))  # also the order


def test_one_input_has_one_answer_and_a_list_has_a_list(server, ask, close):
    assert close(server.post("/analyze", {"inputs": TEXTS[0]}).json, ask(TEXTS[0], return_embeddings=False), 1e-5)
    assert len(server.post("/analyze", {"inputs": [TEXTS[0]]}).json) == 1
    assert server.post("/analyze", {"inputs": []}).json == []
    assert close(server.post("/analyze", {"inputs": {"text": TEXTS[0]}}).json, ask(TEXTS[0], return_embeddings=False))


@pytest.mark.parametrize(
    "options",
    [
        {"tasks": "topic"},
        {"tasks": ["ner", "tags"]},
        {"top_k": 1},
        {"threshold": 0.9},
        {"threshold": {"topic": 0.99, "ner": 0.1}, "tasks": ["topic", "ner"]},
    ],
)
def test_parameters_are_those_of_the_pipeline(server, ask, close, options):
    found = server.post("/analyze", {"inputs": TEXTS, **options}).json
    assert close(found, ask(TEXTS, return_embeddings=False, **options), 1e-5)


def test_classify_gives_labels_alone(server, ask, close):
    found = server.post("/classify", {"inputs": [TEXTS[0], PAIR], "top_k": 1}).json
    assert [list(answer) for answer in found] == [["topic", "tags"], ["topic", "tags", "follows"]]
    assert close(found, ask([TEXTS[0], PAIR], tasks=["topic", "tags", "follows"], top_k=1, return_embeddings=False))


def test_entities_are_those_of_the_pipeline_with_exact_characters(server, ask):
    text = "Ada Perez joins Nimbus Labs in Oslo 🌍 ünd Lima"
    found = server.post("/entities", {"inputs": text, "threshold": 0.0}).json["ner"]
    expected = ask(text, threshold=0.0)["ner"]
    assert len(found) > 0
    assert [text[entity["start"] : entity["end"]] for entity in found] == [entity["text"] for entity in found]
    for entity, other in zip(found, expected, strict=True):
        assert entity == {**other, "score": pytest.approx(other["score"], abs=1e-5)}


def test_embed_and_similarity_give_embeddings_and_their_cosine(server, ask):
    embeddings = server.post("/embed", {"inputs": list(PAIR.values())}).json
    answer = ask(PAIR)
    assert embeddings == [pytest.approx(answer[name], abs=1e-5) for name in ("embedding", "pair_embedding")]
    cosine = pytest.approx(answer["near"]["score"], abs=1e-5)
    assert server.post("/similarity", {"inputs": PAIR}).json == {"score": cosine}
    assert server.post("/similarity", {"inputs": [PAIR, PAIR]}).json == [{"score": cosine}] * 2


def test_a_text_longer_than_the_model_is_read_to_its_end(server, ask, close):
    text = "Oslo beat Lima in the final. " * 60
    assert close(server.post("/analyze", {"inputs": text}).json, ask(text, return_embeddings=False), 1e-5)


def test_none_of_many_requests_at_once_is_lost_or_mixed_up(server, ask, close):
    """`benchmarks/serve.py` does the same with ten thousand and a trained model."""
    chance = random.Random(0)
    texts = [" ".join(chance.sample(" ".join(TEXTS).split(), chance.randint(1, 30))) for _ in range(150)]
    asked = [{"return_embeddings": True}, {"tasks": ["topic"], "top_k": 1}, {"threshold": 0.7}] * 50
    requests = [("/analyze", {"inputs": text, **options}) for text, options in zip(texts, asked, strict=True)]
    replies = server.at_once(requests, num_clients=16)
    for text, options, reply in zip(texts, asked, replies, strict=True):
        assert close(reply.json, ask(text, **{"return_embeddings": False, **options}), 1e-5), text


# Requests that are wrong


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b'{"inputs":', 400, "The body is not JSON: Expecting value at character 10."),
        (b'{"inputs": "\xff"}', 400, "The body cannot be read: it must be JSON in UTF-8"),
        (b"[" * 100_000, 400, "The body cannot be read"),
        (b"9" * 10_000, 400, "The body cannot be read"),
        (b"", 422, 'The body must be a JSON object such as {"inputs": "A text"}'),
        (b'["a"]', 422, 'The body must be a JSON object such as {"inputs": "A text"}'),
        ({}, 422, "`inputs`: Field required."),
        ({"inputs": 7}, 422, "`inputs`: input 0 is of the type number; `inputs` is a text, a pair"),
        ({"inputs": ["a", None]}, 422, "input 1 is of the type null"),
        ({"inputs": [["a", "b"]]}, 422, "input 0 is of the type array"),
        ({"inputs": {"text": "a", "pair": "b"}}, 422, "input 0 is of the type object"),
        ({"inputs": "half \ud83d"}, 422, "input 0 holds half a character (\\ud83d)"),
        ({"inputs": "a", "task": "topic"}, 422, "`task` is unknown here; GET /docs lists what each request takes."),
        ({"inputs": "a", "tasks": ["nothing"]}, 422, "`tasks` names tasks that the model does not have: ['nothing']"),
        ({"inputs": "a", "top_k": 0}, 422, "`top_k`: Input should be greater than or equal to 1."),
        ({"inputs": "a", "threshold": 2}, 422, "`threshold` is 2.0; it must be a probability in [0, 1]."),
        ({"inputs": "a", "threshold": {"near": 0.5}}, 422, "`threshold` names the task 'near', a number"),
        ({"inputs": "a", "threshold": "x"}, 422, "`threshold`: Input should be a valid number"),
        ({"inputs": "a", "threshold": {"ner": "x"}}, 422, "`threshold`: Input should be a valid number."),
        ({"inputs": "a", "tasks": ["ner", 7]}, 422, "`tasks`: Input should be a valid string."),
        (b'{"inputs": "a", "threshold": NaN}', 422, "`threshold` is nan; it must be a probability"),
        ({"inputs": ["a"] * 257}, 422, "There are 257 inputs; a request may have 256."),
        ({"inputs": ["a", "b" * 20_001]}, 422, "Input 1 has 20,001 characters; a text may have 20,000."),
        ({"inputs": {"text": "a", "text_pair": "b" * 20_001}}, 422, "Input 0 has 20,001 characters"),
    ],
)
def test_a_wrong_request_is_refused_with_a_reason(server, body, status, reason):
    reply = server.post("/analyze", body)
    assert reply.status == status
    assert reason in reply.reason
    assert server.post("/analyze", {"inputs": "a"}).status == 200  # and does the next one no harm


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/analyze", {"inputs": "a", "threshold": True}, "`threshold`: Input should be a valid number."),
        ("/analyze", {"inputs": "a", "threshold": "0.5"}, "`threshold`: Input should be a valid number."),
        ("/analyze", {"inputs": "a", "threshold": {"topic": True}}, "`threshold`: Input should be a valid number."),
        ("/classify", {"inputs": "a", "threshold": True}, "`threshold`: Input should be a valid number."),
        ("/entities", {"inputs": "a", "threshold": {"ner": "0.5"}}, "`threshold`: Input should be a valid number."),
        ("/analyze", {"inputs": "a", "top_k": True}, "`top_k`: Input should be a valid integer."),
        ("/classify", {"inputs": "a", "top_k": "1"}, "`top_k`: Input should be a valid integer."),
        ("/analyze", {"inputs": "a", "return_embeddings": 1}, "`return_embeddings`: Input should be a valid boolean."),
        ("/analyze", {"inputs": "a", "return_embeddings": "no"}, "`return_embeddings`: Input should be a valid bool"),
        ("/embed", {"inputs": 7}, "`inputs`: input 0 is of the type number; `inputs` is a text, or a list of texts."),
        ("/similarity", {"inputs": [True]}, "input 0 is of the type boolean; `inputs` is a pair {"),
    ],
)
def test_a_value_of_another_type_is_refused_and_not_converted(server, path, body, reason):
    reply = server.post(path, body)
    assert reply.status == 422
    assert reason in reply.reason


def test_whole_numbers_are_thresholds(server, ask, close):
    for threshold in (0, 1, {"topic": 1}):
        found = server.post("/analyze", {"inputs": TEXTS, "threshold": threshold}).json
        assert close(found, ask(TEXTS, return_embeddings=False, threshold=threshold), 1e-5)


def test_routes_for_texts_refuse_pairs_and_the_other_way_round(server):
    assert "input 0 is a pair, and this takes texts" in server.post("/embed", {"inputs": PAIR}).reason
    assert "input 1 is a pair" in server.post("/entities", {"inputs": ["a", PAIR]}).reason
    assert "input 1 is one text, and this compares two" in server.post("/similarity", {"inputs": [PAIR, "a"]}).reason


def test_a_task_that_the_model_lacks_is_named(model, tokenizer, serve):
    model.drop_task("ner")
    client, _ = serve(model.as_pipeline(tokenizer))
    reply = client.post("/entities", {"inputs": "a"})
    assert reply.status == 422
    assert reply.reason == (
        "This needs a task of the type token_classification; the model has topic (sequence_classification)."
    )
    assert client.post("/classify", {"inputs": "a"}).status == 200


@pytest.mark.parametrize(
    ("path", "task", "answered"), [("/classify", "ner", "topic, tags, follows"), ("/entities", "topic", "ner")]
)
def test_a_threshold_of_a_task_that_is_not_answered_is_refused(server, path, task, answered):
    reply = server.post(path, {"inputs": "a", "threshold": {task: 0.9}})
    assert reply.status == 422
    assert reply.reason == f"`threshold` names {task}, which this does not answer; it answers {answered}."
    assert server.post(path, {"inputs": "a", "threshold": {answered.split(", ")[0]: 0.9}}).status == 200


def test_labels_of_pairs_need_pairs(model, tokenizer, serve):
    model.drop_task("topic")
    model.add_task("follows", {"type": "pair_classification", "labels": ["no", "yes"]})
    client, _ = serve(model.eval().as_pipeline(tokenizer))
    assert list(client.post("/classify", {"inputs": PAIR}).json) == ["follows"]
    reply = client.post("/classify", {"inputs": [PAIR, "a"]})
    assert reply.status == 422
    assert "The labels of this model (follows) are of pairs" in reply.reason


def test_what_is_not_there_is_said_with_what_is(server):
    assert "There is no GET /nowhere; GET /docs lists what there is." == server.get("/nowhere").reason
    assert server.get("/analyze").status == 405
    assert "There is no GET /analyze" in server.get("/analyze").reason


def test_a_body_without_its_type_is_refused(server):
    reply = server.post("/analyze", {"inputs": "a"}, Content_Type="text/plain")
    assert reply.status == 422
    assert "sent with Content-Type: application/json" in reply.reason


# About the server


def test_health_readiness_and_metrics(server):
    assert server.get("/health").json == {"status": "ok"}
    for path in ("/health", "/ready"):  # as balancers of load ask
        assert server.request("HEAD", path).status == server.get(path).status == 200
    assert server.get("/ready").json == {"status": "ready"}
    before = server.metric("mtsbert_answered_total")
    server.post("/analyze", {"inputs": ["a", "b"]})
    assert server.metric("mtsbert_answered_total") == before + 1
    text = server.get("/metrics").text
    assert 'mtsbert_requests_total{path="/analyze",status="200"}' in text
    assert "# TYPE mtsbert_batch_texts histogram" in text
    assert server.metric("mtsbert_queue_texts") == 0


def test_an_error_that_nobody_expected_has_status_500_and_is_counted_as_that(serve):
    client, model = serve()
    model.check = lambda options: 1 / 0
    reply = client.post("/embed", {"inputs": "a"})
    assert reply.status == 500
    assert reply.reason == "The server failed; its log has the reason."
    assert client.metric('mtsbert_requests_total{path="/embed",status="500"}') == 1
    assert 'status="none"' not in client.get("/metrics").text


def test_unknown_paths_do_not_grow_the_metrics(server):
    for number in range(3):
        server.get(f"/nowhere/{number}")
    assert "nowhere" not in server.get("/metrics").text


def test_the_page_lists_every_request_and_loads_nothing(server):
    page = server.get("/docs").text
    paths = server.get("/openapi.json").json["paths"]
    assert len(paths) == 11
    assert all(f"{path}</code>" in page for path in paths)
    assert "return_embeddings" in page
    assert "<script" not in page
    assert "//" not in page.replace("http://www.w3.org", "")
