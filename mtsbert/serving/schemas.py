"""The bodies of requests, and what each of their fields means."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from mtsbert.serving.errors import Refusal
from mtsbert.serving.inference import Row
from mtsbert.serving.limits import Limits


FORMS = 'a text, a pair {"text": …, "text_pair": …}, or a list of these'
FORMS_OF_TEXTS = "a text, or a list of texts"
FORMS_OF_PAIRS = 'a pair {"text": …, "text_pair": …}, or a list of pairs'


class Body(BaseModel):
    """Base of all requests; unknown fields and values of another type (`true` for a number) are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Pair(Body):
    text: str
    text_pair: str


@dataclass(frozen=True)
class Inputs:
    """The inputs of a request; `is_single` says that it had one input and no list, and so has its answer."""

    rows: list[Row]
    is_single: bool

    def check(self, limits: Limits) -> None:
        """Raises [`Refusal`] if there are too many inputs, or if one is too long."""
        if len(self.rows) > limits.max_texts:
            raise Refusal(
                422,
                f"There are {len(self.rows):,} inputs; a request may have {limits.max_texts:,}. Send them in several "
                "requests, also at the same time: they are answered together.",
            )
        for index, row in enumerate(self.rows):
            for text in [row] if isinstance(row, str) else row:
                if len(text) > limits.max_characters:
                    raise Refusal(
                        422,
                        f"Input {index} has {len(text):,} characters; a text may have {limits.max_characters:,}. "
                        "Split it, or start the server with a higher --max_characters.",
                    )

    def shaped(self, answers: list) -> Any:
        """The answers in the shape of the inputs: one, or a list."""
        return answers[0] if self.is_single else answers


def read_inputs(value: Any, *, forms: str = FORMS) -> Inputs:
    """Reads `inputs`. Raises `ValueError`, with the `forms` that are taken, for other things than texts and pairs."""
    is_single = not isinstance(value, list)
    rows = [_read_row(row, index, f"`inputs` is {forms}") for index, row in enumerate([value] if is_single else value)]
    return Inputs(rows, is_single)


def read_texts(value: Any) -> Inputs:
    """Like [`read_inputs`], but pairs are refused."""
    inputs = read_inputs(value, forms=FORMS_OF_TEXTS)
    for index, row in enumerate(inputs.rows):
        if not isinstance(row, str):
            raise ValueError(f"input {index} is a pair, and this takes texts; POST /analyze takes pairs too.")
    return inputs


def read_pairs(value: Any) -> Inputs:
    """Like [`read_inputs`], but single texts are refused."""
    inputs = read_inputs(value, forms=FORMS_OF_PAIRS)
    for index, row in enumerate(inputs.rows):
        if isinstance(row, str):
            raise ValueError(f'input {index} is one text, and this compares two: {{"text": …, "text_pair": …}}.')
    return inputs


def read_openai_input(value: Any) -> Inputs:
    """Reads the `input` of OpenAI's API. Raises `ValueError` for token ids, and for what that API refuses as well."""
    is_single = not isinstance(value, list)
    first = value[0] if not is_single and value else value
    if type(first) is int or (isinstance(first, list) and first and type(first[0]) is int):
        raise ValueError(
            "these are token ids, which are those of another model's tokenizer. Send texts; for LangChain's "
            "OpenAIEmbeddings, that is check_embedding_ctx_length=False."
        )
    texts = [
        _read_text(text, index, f"`input` is {FORMS_OF_TEXTS}")
        for index, text in enumerate([value] if is_single else value)
    ]
    if not texts or "" in texts:
        raise ValueError("there must be at least one text, and none may be empty.")
    return Inputs(texts, is_single)


def _read_row(row: Any, index: int, allowed: str) -> Row:
    if isinstance(row, dict) and set(row) <= {"text", "text_pair"} and "text" in row:
        text = _read_text(row["text"], index, allowed)
        pair = row.get("text_pair")
        return text if pair is None else (text, _read_text(pair, index, allowed))
    return _read_text(row, index, allowed)


def _read_text(text: Any, index: int, allowed: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"input {index} is of the type {_json_type(text)}; {allowed}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"input {index} holds half a character (\\u{ord(text[error.start]):x}).") from None
    return text


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "array", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


TextsOrPairs = Annotated[
    Inputs,
    PlainValidator(read_inputs, json_schema_input_type=str | Pair | list[str | Pair]),
    Field(description=f"What to answer about: {FORMS}."),
]
Texts = Annotated[
    Inputs,
    PlainValidator(read_texts, json_schema_input_type=str | list[str]),
    Field(description="A text, or a list of texts."),
]
Pairs = Annotated[
    Inputs,
    PlainValidator(read_pairs, json_schema_input_type=Pair | list[Pair]),
    Field(description="Two texts, or a list of such pairs."),
]
TopK = Annotated[int | None, Field(ge=1, description="Return only the k best labels.")]
Threshold = Annotated[
    float | dict[str, float] | None,
    Field(description="A probability for all tasks, or one for each task, instead of those of the checkpoint."),
]


class AnalyzeRequest(Body):
    inputs: TextsOrPairs
    tasks: Annotated[str | list[str] | None, Field(description="The tasks to answer. Default: all.")] = None
    top_k: TopK = None
    threshold: Threshold = None
    return_embeddings: Annotated[bool, Field(description="Also return the sentence embeddings.")] = False


class ClassifyRequest(Body):
    inputs: TextsOrPairs
    top_k: TopK = None
    threshold: Threshold = None


class EntitiesRequest(Body):
    inputs: Texts
    threshold: Threshold = None


class EmbedRequest(Body):
    inputs: Texts


class SimilarityRequest(Body):
    inputs: Pairs


class EmbeddingsRequest(Body):
    """The request of OpenAI's API."""

    input: Annotated[
        Inputs,
        PlainValidator(read_openai_input, json_schema_input_type=str | list[str]),
        Field(description="A text, or a list of texts."),
    ]
    model: Annotated[str, Field(description="What GET /v1/models lists.")]
    encoding_format: Annotated[
        Literal["float", "base64"] | None, Field(description="base64: float32 numbers, little-endian. null: float.")
    ] = "float"
    dimensions: Annotated[
        int | None,
        Field(ge=1, description="Number of leading dimensions to keep; the result is scaled to unit length."),
    ] = None
    user: Annotated[str | None, Field(description="Ignored, as there are no accounts.")] = None
