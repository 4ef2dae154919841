"""What the server answers about a model: labels, entities, embeddings and similarities."""

from typing import Any

import numpy as np
from fastapi import APIRouter
from pydantic_core import to_json
from starlette.responses import Response

from configuration_mtsbert import PAIR_CLASSIFICATION, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from mtsbert.serving.batching import Batcher
from mtsbert.serving.errors import Refusal
from mtsbert.serving.inference import EMBEDDING, EMBEDDINGS, PAIR_EMBEDDING, Inference, Options
from mtsbert.serving.limits import Limits
from mtsbert.serving.schemas import (
    AnalyzeRequest,
    ClassifyRequest,
    EmbedRequest,
    EntitiesRequest,
    Inputs,
    SimilarityRequest,
)


class RequestHandler:
    """Checks the inputs and options of requests, and has them answered. All routes share one."""

    def __init__(self, inference: Inference, batcher: Batcher, limits: Limits):
        self.config = inference.pipeline.model.config
        self._inference, self._batcher, self._limits = inference, batcher, limits

    async def ask(self, inputs: Inputs, **options: Any) -> tuple[list[dict], int]:
        """
        Answers inputs within the limits. Returns the answers and the number of tokens of the inputs.

        Args:
            inputs ([`Inputs`]): Texts and pairs.
            options: Fields of [`Options`]; `tasks` may be a name, and `threshold` a dictionary.

        Raises:
            [`Refusal`]: If the request is wrong, or has to come another time.
        """
        inputs.check(self._limits)
        tasks, threshold = options.get("tasks"), options.get("threshold")
        if tasks is not None:
            options["tasks"] = (tasks,) if isinstance(tasks, str) else tuple(tasks)
        if isinstance(threshold, dict):
            options["threshold"] = tuple(sorted(threshold.items()))
        asked = Options(**options)
        try:
            self._inference.check(asked)
        except ValueError as error:
            raise Refusal(422, str(error)) from None
        if not inputs.rows:
            return [], 0
        job = await self._batcher.answer(inputs.rows, asked)
        return job.answers, job.num_tokens

    def tasks_of(self, *types: str) -> list[str]:
        """The tasks of some types. Raises [`Refusal`] if the model has none."""
        found = [task for task_type in types for task in self.config.tasks_of_type(task_type)]
        if not found:
            needed = " or ".join(types)
            has = ", ".join(f"{name} ({task['type']})" for name, task in self.config.tasks.items())
            raise Refusal(422, f"This needs a task of the type {needed}; the model has {has or 'no tasks'}.")
        return found


def check_threshold(threshold: float | dict[str, float] | None, tasks: list[str]) -> None:
    """Raises [`Refusal`] if a threshold is for a task that is not among those to answer."""
    others = sorted(set(threshold) - set(tasks)) if isinstance(threshold, dict) else []
    if others:
        raise Refusal(
            422, f"`threshold` names {', '.join(others)}, which this does not answer; it answers {', '.join(tasks)}."
        )


def json_response(content: Any) -> Response:
    return Response(to_json(content), media_type="application/json")


def model_routes(handler: RequestHandler) -> APIRouter:
    """The routes of our own API, whose answers are those of the pipeline."""
    router = APIRouter()

    @router.post("/analyze", summary="All tasks of the model, for texts and pairs of texts")
    async def analyze(body: AnalyzeRequest) -> Response:
        answers, _ = await handler.ask(
            body.inputs,
            tasks=body.tasks,
            top_k=body.top_k,
            threshold=body.threshold,
            embeddings=body.return_embeddings,
        )
        for answer in answers:
            answer.update({name: answer[name].tolist() for name in EMBEDDINGS if name in answer})
        return json_response(body.inputs.shaped(answers))

    @router.post("/classify", summary="The labels of texts, and of pairs of texts")
    async def classify(body: ClassifyRequest) -> Response:
        tasks = handler.tasks_of(SEQUENCE_CLASSIFICATION, PAIR_CLASSIFICATION)
        check_threshold(body.threshold, tasks)
        is_of_pairs = not handler.config.tasks_of_type(SEQUENCE_CLASSIFICATION)
        if is_of_pairs and any(isinstance(row, str) for row in body.inputs.rows):
            raise Refusal(
                422, f'The labels of this model ({", ".join(tasks)}) are of pairs: {{"text": …, "text_pair": …}}.'
            )
        answers, _ = await handler.ask(body.inputs, tasks=tasks, top_k=body.top_k, threshold=body.threshold)
        return json_response(body.inputs.shaped(answers))

    @router.post("/entities", summary="The entities of texts, with their characters")
    async def entities(body: EntitiesRequest) -> Response:
        tasks = handler.tasks_of(TOKEN_CLASSIFICATION)
        check_threshold(body.threshold, tasks)
        answers, _ = await handler.ask(body.inputs, tasks=tasks, threshold=body.threshold)
        return json_response(body.inputs.shaped(answers))

    @router.post("/embed", summary="The sentence embeddings of texts")
    async def embed(body: EmbedRequest) -> Response:
        answers, _ = await handler.ask(body.inputs, tasks=(), embeddings=True)
        return json_response(body.inputs.shaped([answer[EMBEDDING].tolist() for answer in answers]))

    @router.post("/similarity", summary="The cosine of the sentence embeddings of two texts")
    async def similarity(body: SimilarityRequest) -> Response:
        answers, _ = await handler.ask(body.inputs, tasks=(), embeddings=True)
        scores = [{"score": _cosine(answer[EMBEDDING], answer[PAIR_EMBEDDING])} for answer in answers]
        return json_response(body.inputs.shaped(scores))

    return router


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / max(np.linalg.norm(one) * np.linalg.norm(other), np.finfo(np.float32).tiny))
