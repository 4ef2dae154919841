"""Puts the server's parts together: one FastAPI app for one model."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response

from mtsbert.serving.batching import DIED, Batcher
from mtsbert.serving.errors import Refusal, add_error_handlers
from mtsbert.serving.guard import Guard
from mtsbert.serving.inference import Inference
from mtsbert.serving.limits import Limits
from mtsbert.serving.metrics import Metrics
from mtsbert.serving.openai import openai_routes
from mtsbert.serving.page import page_of
from mtsbert.serving.routes import RequestHandler, json_response, model_routes


def create_app(
    inference: Inference, *, name: str, limits: Limits, metrics: Metrics | None = None, api_key: str | None = None
) -> FastAPI:
    """
    Builds the app.

    Args:
        inference ([`Inference`]): The model.
        name (`str`): Its name in OpenAI's API.
        limits ([`Limits`]): What the server takes on.
        metrics ([`Metrics`], *optional*): Where requests are counted. Default: new counters.
        api_key (`str`, *optional*): What requests must bring as a Bearer token. Default: nothing.
    """
    metrics = metrics or Metrics()
    batcher = Batcher(inference, limits, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(inference.warm_up)
        batcher.start()
        yield
        await asyncio.to_thread(batcher.close)

    app = FastAPI(
        title=name,
        description="An mtsbert model: sentence embeddings, labels, entities, and how two texts relate.",
        docs_url=None,  # FastAPI's pages load their scripts from the internet
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(Guard, limits=limits, metrics=metrics, api_key=api_key)
    add_error_handlers(app)
    handler = RequestHandler(inference, batcher, limits)
    app.include_router(model_routes(handler))
    app.include_router(openai_routes(handler, name))

    @app.head("/health", include_in_schema=False)
    @app.get("/health", summary="Whether the process works, or must be started again")
    async def health() -> Response:
        if batcher.has_died:
            raise Refusal(503, DIED)
        return json_response({"status": "ok"})

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", summary="Whether requests are answered")
    async def ready() -> Response:
        if not batcher.is_running:
            raise Refusal(503, "The server is stopping, or the thread that runs the model has died.")
        return json_response({"status": "ready"})

    @app.get("/metrics", summary="Counters for Prometheus")
    async def show_metrics() -> Response:
        return Response(metrics.as_text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page_of(app.openapi()))

    return app
