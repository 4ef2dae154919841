"""Loads models that turn texts into sentence embeddings: our checkpoints, SentenceTransformers, bare encoders."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PretrainedConfig
from transformers.utils import cached_file

from configuration_mtsbert import MTSBertConfig
from modeling_mtsbert import MTSBertModel
from mtsbert.machine import autocast
from mtsbert.network.starting_point import load_pipeline, open_tokenizer, resolve_name


BATCH_SIZE = 64
# A task that is never answered; a model needs one.
NO_TASK = {"none": {"type": "pair_similarity", "score_range": [0, 1]}}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embedder:
    """A model that turns texts into sentence embeddings."""

    name: str
    encode: Callable[[list[str]], np.ndarray]
    """Returns the embeddings `(N, H)` of texts in float32, which need not have length 1."""


def load_embedder(name_or_path: str, *, precision: str = "auto") -> Embedder:
    """
    Loads a model that turns texts into sentence embeddings. No code of the model runs, unless it is of mtsbert.

    Args:
        name_or_path (`str`): A folder, a Hub id, or `package:NAME/FOLDER`: an mtsbert checkpoint, a
            SentenceTransformer, or a bare encoder, which gets mean pooling.
        precision (`str`, *optional*, defaults to `"auto"`): See [`~mtsbert.machine.autocast`].

    Raises:
        `ValueError`: if it is none of these, or sentence-transformers is needed and not installed.
    """
    where = resolve_name(name_or_path)
    try:
        model_type = PretrainedConfig.get_config_dict(where)[0].get("model_type")
    except OSError:
        model_type = None
    if model_type == MTSBertConfig.model_type:
        return Embedder(name_or_path, _of_pipeline(load_pipeline(where), precision))
    if _has_modules(where):
        return Embedder(name_or_path, _of_sentence_transformer(where, name_or_path, precision))
    if model_type is None:
        raise ValueError(
            f"{name_or_path!r} is no model that gives sentence embeddings: there is neither an mtsbert checkpoint nor "
            "a SentenceTransformer (modules.json) nor an encoder (config.json)."
        )
    logger.warning(f"{name_or_path} is a bare encoder: its token states are pooled by their mean.")
    model = MTSBertModel.from_encoder(where, tasks=NO_TASK)
    tokenizer = open_tokenizer(where, model.config.encoder_config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Embedder(name_or_path, _of_pipeline(model.eval().as_pipeline(tokenizer, device=device), precision))


def _has_modules(where: str) -> bool:
    quietly = [f"_raise_exceptions_for_{what}" for what in ("gated_repo", "missing_entries", "connection_errors")]
    try:
        return cached_file(where, "modules.json", **dict.fromkeys(quietly, False)) is not None
    except OSError:
        return False


def _of_pipeline(pipeline, precision: str) -> Callable[[list[str]], np.ndarray]:
    def encode(texts: list[str]) -> np.ndarray:
        with autocast(pipeline.device, precision):
            answers = pipeline(texts, tasks=[], return_embeddings="numpy", batch_size=BATCH_SIZE)
        return np.stack([answer["embedding"] for answer in answers])

    return encode


def _of_sentence_transformer(where: str, name: str, precision: str) -> Callable[[list[str]], np.ndarray]:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ValueError(
            f"{name!r} is a SentenceTransformer, and that package is missing: `pip install sentence-transformers`. "
            f"({error})"
        ) from None
    model = SentenceTransformer(where, trust_remote_code=False)

    def encode(texts: list[str]) -> np.ndarray:
        with autocast(model.device, precision):
            return model.encode(texts, batch_size=BATCH_SIZE, show_progress_bar=False).astype(np.float32)

    return encode
