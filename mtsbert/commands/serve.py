"""Serves a model over HTTP: labels, entities, embeddings and similarities, and OpenAI's API for embeddings.

    mtsbert serve --model runs/quickstart
    mtsbert serve --model exports/quickstart --host 0.0.0.0 --port 8000

The texts of all requests are answered in batches. The server is for this machine only, unless `--host` is given. If
the environment variable MTSBERT_API_KEY is set, requests must bring it as a Bearer token. The page /docs lists what
can be asked. Serving needs FastAPI, uvicorn and prometheus_client (requirements-serve.txt).
"""

import argparse
import logging
import os
import sys
from dataclasses import fields

from mtsbert.exports.pipeline import load_pipeline
from mtsbert.machine import add_precision_option, autocast
from mtsbert.network.starting_point import title_of
from mtsbert.serving.limits import Limits
from mtsbert.settings import import_extra


API_KEY = "MTSBERT_API_KEY"  # environment variable

logger = logging.getLogger(__name__)


def key_from_environment() -> str | None:
    """
    Returns the key that requests must bring; None if there is none.

    Raises:
        `ValueError`: If the key is empty, or begins or ends with whitespace, which no header does.
    """
    key = os.environ.get(API_KEY)
    if key is not None and not key.strip():
        raise ValueError(f"{API_KEY} is set, but empty. Give it a value, or unset it to let everybody in.")
    if key is not None and key != key.strip():
        raise ValueError(
            f"{API_KEY} begins or ends with whitespace, which no request can send; it may be the newline at the end "
            "of a file. Remove it."
        )
    return key


def main(argv: list[str] | None = None, *, prog: str = "mtsbert serve") -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", required=True, help="mtsbert checkpoint (a folder or a Hub id), or a folder of `mtsbert export`."
    )
    parser.add_argument("--revision", help="Branch, tag or commit of a Hub id.")
    parser.add_argument("--name", help="Name of the model in OpenAI's API. Default: the Hub id, or the folder's name")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="Address to listen on. With 0.0.0.0, everybody who can reach this machine can send requests; set "
        "MTSBERT_API_KEY. Default: %(default)s",
    )
    parser.add_argument("--port", type=int, default=8000, help="Port to listen on; 0: any. Default: %(default)s")
    parser.add_argument(
        "--max_batch_tokens",
        type=int,
        help="Tokens of the texts that are answered together; 1: every text alone. Default: as many as keep the "
        "machine busy, 512 for each thread of a CPU",
    )
    parser.add_argument(
        "--max_wait_ms",
        type=float,
        default=Limits.max_wait_ms,
        help="Milliseconds that a text waits for others to fill its batch, if the last batch had texts of more "
        "requests. Default: %(default)s",
    )
    parser.add_argument(
        "--max_queue",
        type=int,
        default=Limits.max_queue,
        help="Texts that wait for their batch. Requests beyond that are refused with status 429. Default: %(default)s",
    )
    parser.add_argument(
        "--max_texts", type=int, default=Limits.max_texts, help="Texts or pairs in a request. Default: %(default)s"
    )
    parser.add_argument(
        "--max_characters",
        type=int,
        default=Limits.max_characters,
        help="Characters of a text. Texts that are too long for the model are read in windows. Default: %(default)s",
    )
    parser.add_argument(
        "--max_body_mb",
        type=float,
        default=Limits.max_body_mb,
        help="Size of a request's body, in 10^6 bytes. Default: %(default)s",
    )
    parser.add_argument(
        "--timeout_s",
        type=float,
        default=Limits.timeout_s,
        help="Seconds until a request that is not answered gets status 504. Default: %(default)s",
    )
    add_precision_option(parser, default="fp32")
    args = parser.parse_args(argv)
    for module in ("fastapi", "uvicorn", "prometheus_client"):
        import_extra(module, extra="serve")
    serve(args)


def serve(args: argparse.Namespace) -> None:
    """
    Serves until SIGTERM or Ctrl-C.

    Raises:
        `ValueError`: If the port is taken, a limit is impossible, or the model is no checkpoint and no export.
    """
    from mtsbert.serving.app import create_app  # needs the packages of the extra
    from mtsbert.serving.inference import Inference
    from mtsbert.serving.metrics import Metrics
    from mtsbert.serving.server import LOCAL, open_port, run_server

    api_key = key_from_environment()
    limits = Limits(**{field.name: getattr(args, field.name) for field in fields(Limits) if field.name in args})
    with open_port(args.host, args.port) as listener:
        pipeline = load_pipeline(args.model, revision=args.revision, precision=args.precision)
        inference = Inference(pipeline, autocast(pipeline.device, args.precision))
        metrics, name = Metrics(), args.name or title_of(args.model)
        app = create_app(inference, name=name, limits=limits, metrics=metrics, api_key=api_key)
        if api_key is None and args.host not in LOCAL:
            logger.warning(
                f"Everybody who can reach {args.host} can send requests. Set {API_KEY}, or listen on 127.0.0.1 behind "
                "a proxy that checks who is asking."
            )
        try:
            run_server(app, listener, name=name, limits=limits, metrics=metrics)
        except KeyboardInterrupt:
            sys.exit(130)
