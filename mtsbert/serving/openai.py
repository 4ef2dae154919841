"""The part of OpenAI's API that a sentence embedding can answer, so that clients of that API need no change."""

import base64
import time

import numpy as np
from fastapi import APIRouter
from starlette.responses import Response

from mtsbert.serving.errors import Refusal
from mtsbert.serving.inference import EMBEDDING
from mtsbert.serving.routes import RequestHandler, json_response
from mtsbert.serving.schemas import EmbeddingsRequest


def openai_routes(handler: RequestHandler, name: str) -> APIRouter:
    """
    `/v1/embeddings` and `/v1/models`.

    Args:
        handler ([`RequestHandler`]): Answers the requests.
        name (`str`): Name of the model, which clients give as `model`.
    """
    router = APIRouter(prefix="/v1")
    described = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "mtsbert"}

    def check_name(model: str) -> None:
        if model != name:
            raise Refusal(404, f"There is no model {model!r} here; `model` is {name!r}.")

    @router.get("/models", summary="The name of the model")
    async def models() -> Response:
        return json_response({"object": "list", "data": [described]})

    @router.get("/models/{model:path}", summary="The same of the model by its name")
    async def model_called(model: str) -> Response:
        check_name(model)
        return json_response(described)

    @router.post("/embeddings", summary="Sentence embeddings, as OpenAI's API returns them")
    async def embeddings(body: EmbeddingsRequest) -> Response:
        check_name(body.model)
        if (body.dimensions or 0) > handler.config.embedding_size:
            raise Refusal(
                422, f"`dimensions` is {body.dimensions}; this model's embedding has {handler.config.embedding_size}."
            )
        answers, num_tokens = await handler.ask(body.input, tasks=(), embeddings=True)
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": _written(_cut(answer[EMBEDDING], body.dimensions), body.encoding_format),
            }
            for index, answer in enumerate(answers)
        ]
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        return json_response({"object": "list", "data": data, "model": name, "usage": usage})

    return router


def _cut(embedding: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The leading dimensions of an embedding `(H,)`, scaled to unit length."""
    if dimensions is None or dimensions == len(embedding):
        return embedding
    first = embedding[:dimensions]
    return first / max(np.linalg.norm(first), np.finfo(np.float32).tiny)


def _written(embedding: np.ndarray, encoding_format: str) -> str | list[float]:
    if encoding_format == "base64":
        return base64.b64encode(embedding.astype("<f4").tobytes()).decode()
    return embedding.tolist()
