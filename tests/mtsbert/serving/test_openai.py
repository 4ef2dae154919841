"""Tests the requests of OpenAI's API."""

import base64
import math
import struct

import pytest


TEXTS = ["Oslo beat Lima in the final", "Shares of Nimbus Labs rise"]


def test_embeddings_are_those_of_the_pipeline(server, ask):
    found = server.post("/v1/embeddings", {"input": TEXTS, "model": "tiny", "user": "me"}).json
    assert found["object"] == "list"
    assert found["model"] == "tiny"
    assert [(item["object"], item["index"]) for item in found["data"]] == [("embedding", 0), ("embedding", 1)]
    for item, answer in zip(found["data"], ask(TEXTS), strict=True):
        assert item["embedding"] == pytest.approx(answer["embedding"], abs=1e-5)
    num_tokens = sum(map(len, ask.tokenizer(TEXTS)["input_ids"]))
    assert found["usage"] == {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    one = server.post("/v1/embeddings", {"input": TEXTS[0], "model": "tiny"}).json
    assert len(one["data"]) == 1


def test_base64_holds_the_same_numbers(server, ask):
    request = {"input": TEXTS[0], "model": "tiny", "encoding_format": "base64"}
    written = server.post("/v1/embeddings", request).json["data"][0]["embedding"]
    numbers = struct.unpack("<32f", base64.b64decode(written))
    assert numbers == pytest.approx(ask(TEXTS[0])["embedding"], abs=1e-5)
    unsaid = server.post("/v1/embeddings", request | {"encoding_format": None}).json  # as some clients write it
    assert unsaid["data"][0]["embedding"] == pytest.approx(numbers, abs=1e-6)


def test_fewer_dimensions_are_the_first_numbers_at_length_one(server, ask):
    request = {"input": TEXTS[0], "model": "tiny", "dimensions": 8}
    found = server.post("/v1/embeddings", request).json["data"][0]["embedding"]
    first = ask(TEXTS[0])["embedding"][:8]
    assert found == pytest.approx([number / math.hypot(*first) for number in first], abs=1e-5)
    assert math.hypot(*found) == pytest.approx(1)


def test_the_model_is_listed(server):
    found = server.get("/v1/models").json
    assert found["object"] == "list"
    assert [(model["id"], model["object"]) for model in found["data"]] == [("tiny", "model")]
    assert server.get("/v1/models/tiny").json == found["data"][0]
    other = server.get("/v1/models/owner/name")
    assert (other.status, other.reason) == (404, "There is no model 'owner/name' here; `model` is 'tiny'.")


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"input": [1, 2, 3]}, 422, "these are token ids, which are those of another model's tokenizer"),
        ({"input": [[1, 2], [3]]}, 422, "check_embedding_ctx_length=False"),
        ({"input": 7}, 422, "these are token ids"),
        ({"input": ""}, 422, "there must be at least one text, and none may be empty"),
        ({"input": []}, 422, "there must be at least one text"),
        ({"input": ["a", 7]}, 422, "input 1 is of the type number; `input` is a text, or a list of texts."),
        ({"input": {"text": "a"}}, 422, "input 0 is of the type object; `input` is a text"),
        ({"input": ["a", {"text": "b", "text_pair": "c"}]}, 422, "input 1 is of the type object; `input` is a text"),
        ({"input": [True]}, 422, "input 0 is of the type boolean; `input` is a text"),
        ({"input": [[True]]}, 422, "input 0 is of the type array; `input` is a text"),
        ({"input": "half \ud83d"}, 422, "input 0 holds half a character (\\ud83d)"),
        ({"dimensions": True}, 422, "`dimensions`: Input should be a valid integer."),
        ({"dimensions": "8"}, 422, "`dimensions`: Input should be a valid integer."),
        (
            {"model": "text-embedding-3-small"},
            404,
            "There is no model 'text-embedding-3-small' here; `model` is 'tiny'.",
        ),
        ({"dimensions": 33}, 422, "`dimensions` is 33; this model's embedding has 32."),
        ({"dimensions": 0}, 422, "`dimensions`: Input should be greater than or equal to 1."),
        ({"encoding_format": "int8"}, 422, "`encoding_format`: Input should be 'float' or 'base64'."),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_reason(server, change, status, reason):
    reply = server.post("/v1/embeddings", {"input": "a", "model": "tiny", **change})
    assert reply.status == status
    assert reason in reply.reason
