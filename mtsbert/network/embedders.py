"""Loads whatever embeds texts: checkpoints of mtsbert, SentenceTransformers and plain encoders."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.utils import cached_file

from configuration_mtsbert import PAIR_SIMILARITY, MTSBertConfig
from modeling_mtsbert import MTSBertModel
from mtsbert.input_arguments import ModelArguments
from mtsbert.machine import autocast
from mtsbert.network.adapters import base_of
from mtsbert.network.starting_point import (
    PACKAGE_PREFIX,
    check_encoder,
    load_tokenizer,
    pipeline_of,
    pipeline_of_checkpoint,
    resolve_name,
)
from mtsbert.settings import import_extra
from pipeline_mtsbert import MTSBertPipeline


OURS, SENTENCE_TRANSFORMER = "mtsbert checkpoint", "SentenceTransformer"
PLAIN_ENCODER = "plain encoder, the mean of its token states normalised"
TEXT, QUERY, DOCUMENT = "text", "query", "document"
TEXTS_PER_CALL = 1_000
BATCH_SIZE = 32  # of a SentenceTransformer


@dataclass(frozen=True)
class Embedder:
    """A model that embeds texts."""

    name: str
    kind: str
    """`OURS`, `SENTENCE_TRANSFORMER` or `PLAIN_ENCODER`."""
    encode: Callable[[list[str], str], np.ndarray]
    """Returns the embeddings `(N, H)` of texts that are used as `TEXT`, `QUERY` or `DOCUMENT`."""

    def embed(self, texts: list[str], use: str = TEXT) -> np.ndarray:
        """
        Embeds any number of texts, with a progress bar.

        Args:
            texts (`list[str]`): The texts.
            use (`str`, *optional*, defaults to `"text"`): What they are used as: `"text"`, or `"query"` or
                `"document"` of a search. SentenceTransformers may have a prompt for each.

        Returns:
            `np.ndarray` of shape `(N, H)`: the embeddings, which may not be normalised.

        Raises:
            `ValueError`: if an embedding is not finite.
        """
        blocks = []
        with tqdm(total=len(texts), desc=f"Embedding with {self.name}", unit="text") as progress:
            for first in range(0, len(texts), TEXTS_PER_CALL):
                blocks.append(self.encode(texts[first : first + TEXTS_PER_CALL], use))
                progress.update(len(blocks[-1]))
        embeddings = np.concatenate(blocks)
        finite = np.isfinite(embeddings).all(axis=1)
        if not finite.all():
            first = texts[int(finite.argmin())]
            raise ValueError(f"{self.name}: the embedding of {first[:80]!r} is not finite. Are its weights broken?")
        return embeddings


def kind_of(name_or_path: str) -> str:
    """
    Looks at the files of a model, before it is loaded: is it an mtsbert checkpoint, a SentenceTransformer or a plain
    encoder?

    Raises:
        `ValueError`: if it is none of these, or sentence-transformers is needed and not installed.
    """
    path = resolve_name(name_or_path)
    settings, problem = {}, ""
    try:
        settings, _ = PreTrainedConfig.get_config_dict(path)
    except OSError as error:
        problem = f" ({error})"
    if settings.get("model_type") == MTSBertConfig.model_type or base_of(path) is not None:
        return OURS
    if _has_file(path, "modules.json"):
        import_extra("sentence_transformers", extra="sentence-transformers")
        return SENTENCE_TRANSFORMER
    if settings.get("model_type") in CONFIG_MAPPING:
        return PLAIN_ENCODER
    raise ValueError(
        f"{name_or_path!r} embeds no texts: it must be an mtsbert checkpoint, a SentenceTransformer (modules.json) or "
        f"an encoder of transformers (config.json), in a folder, on the Hub, or as '{PACKAGE_PREFIX}NAME/FOLDER'."
        f"{problem}"
    )


def _has_file(path: str, name: str) -> bool:
    try:
        return cached_file(path, name) is not None
    except OSError:
        return False


def load_embedder(name_or_path: str, *, precision: str = "fp32", batch_size: int | None = None) -> Embedder:
    """
    Loads a model that embeds texts, without running code of its own.

    Args:
        name_or_path (`str`): An mtsbert checkpoint, a SentenceTransformer or a plain encoder: a folder, a Hub id, or
            `package:NAME/FOLDER`. The embedding of a plain encoder is the normalised mean of its token states.
        precision (`str`, *optional*, defaults to `"fp32"`): `"fp32"`, `"bf16"` (autocast), or `"auto"` for bf16 if the
            machine supports it natively.
        batch_size (`int`, *optional*): Texts per forward pass. Default: chosen for the machine; 32 for a
            SentenceTransformer.

    Raises:
        `ValueError`: if the model is none of these, or cannot be loaded.

    Example:

        >>> load_embedder("runs/quickstart").embed(["Oil rises", "Lima wins the final"]).shape
        (2, 384)
    """
    kind = kind_of(name_or_path)
    options = {"precision": precision, "batch_size": batch_size}
    if kind == SENTENCE_TRANSFORMER:
        return Embedder(name_or_path, kind, _sentence_transformer(name_or_path, **options))
    pipeline = pipeline_of_checkpoint(resolve_name(name_or_path)) if kind == OURS else plain_encoder(name_or_path)
    return Embedder(name_or_path, kind, _by_pipeline(pipeline, **options))


def plain_encoder(name: str) -> MTSBertPipeline:
    """Loads an encoder of transformers with mean pooling. Raises `ValueError` if that fails."""
    tokenizer = load_tokenizer(ModelArguments(encoder_name_or_path=name))
    headless = {"similarity": {"type": PAIR_SIMILARITY, "score_range": [0, 1]}}  # a model has at least one task
    try:
        model = MTSBertModel.from_encoder(resolve_name(name), tasks=headless)
    except OSError as error:
        raise ValueError(f"The encoder {name!r} cannot be loaded: {error}") from error
    check_encoder(model)
    return pipeline_of(model, tokenizer)


def _by_pipeline(pipeline: MTSBertPipeline, *, precision: str, batch_size: int | None) -> Callable:
    def encode(texts: list[str], use: str) -> np.ndarray:
        with autocast(pipeline.device, precision):
            answers = pipeline(texts, tasks=[], return_embeddings="numpy", batch_size=batch_size)
        return np.stack([answer["embedding"] for answer in answers])

    return encode


def _sentence_transformer(name: str, *, precision: str, batch_size: int | None) -> Callable:
    library = import_extra("sentence_transformers", extra="sentence-transformers")
    try:
        model = library.SentenceTransformer(
            resolve_name(name), trust_remote_code=False, model_kwargs={"use_safetensors": True}
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name!r} cannot be loaded as a SentenceTransformer. Its weights must be safetensors, and code of its "
            f"own is not run. ({error})"
        ) from error
    encode_as = {TEXT: model.encode, QUERY: model.encode_query, DOCUMENT: model.encode_document}
    options = {"batch_size": batch_size or BATCH_SIZE, "convert_to_numpy": True, "show_progress_bar": False}

    def encode(texts: list[str], use: str) -> np.ndarray:
        with autocast(model.device, precision):
            return encode_as[use](texts, **options)

    return encode
