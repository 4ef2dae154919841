"""The multi-task pipeline: texts in, sentence embeddings, labels and entities out, with one encoder pass per batch."""

import copy
import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.utils.data import Dataset
from transformers import AutoModel, AutoTokenizer, BatchEncoding, Pipeline, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import SAFE_WEIGHTS_NAME, ModelOutput
from transformers.utils.versions import require_version


try:  # part of a package: how `trust_remote_code=True` loads this file
    from .answers_mtsbert import check_threshold, labels_of, probabilities_of, threshold_of
    from .configuration_mtsbert import COSINE_TYPES, PAIR_TYPES, ST_CONFIG, TOKEN_CLASSIFICATION, MTSBertConfig
    from .entities_mtsbert import entities_of, side_by_side, visible_offsets
    from .heads_mtsbert import num_positions
except ImportError:  # run from a clone, with the repository root on `sys.path`
    from answers_mtsbert import check_threshold, labels_of, probabilities_of, threshold_of
    from configuration_mtsbert import COSINE_TYPES, PAIR_TYPES, ST_CONFIG, TOKEN_CLASSIFICATION, MTSBertConfig
    from entities_mtsbert import entities_of, side_by_side, visible_offsets
    from heads_mtsbert import num_positions


# Tokens in a pass, padding included: as many as fit the cache of a CPU core, and as many as keep a GPU busy.
TOKENS_PER_THREAD, TOKENS_PER_GPU = 512, 16_384
LOOK_AHEAD = 1_024  # texts of an iterator that are read before the first of them is answered
MOST_TOKENS = 10**18  # where nothing limits them; a tokenizer then says 10**30, which its own code cannot read
MAX_OVERLAP = 64  # the most tokens that two neighbouring windows of a long text share
# Releases that silently drop windows of long texts: https://github.com/huggingface/tokenizers/issues/2091
BROKEN_TOKENIZERS = ("0.23.1", "0.23.2")

PIPELINE_TASK = "multi-task"
FORWARD_PARAMETERS = ("tasks",)
ANSWER_PARAMETERS = ("top_k", "threshold", "return_embeddings")

# The `handler.py` of a checkpoint. A string, since transformers copies no file that the model's code does not import.
HANDLER = '''"""What Inference Endpoints of Hugging Face call: `EndpointHandler(folder)({"inputs": …})`."""

from transformers import pipeline


class EndpointHandler:
    def __init__(self, path: str = ""):
        self.pipeline = pipeline("multi-task", model=str(path), trust_remote_code=True)

    def __call__(self, data: dict) -> dict | list[dict]:
        return self.pipeline(data["inputs"], **(data.get("parameters") or {}))
'''


class MTSBertPipeline(Pipeline):
    """
    Answers all tasks of a checkpoint at once. Built by `pipeline("multi-task", model=folder_or_id,
    trust_remote_code=True)`, or from a loaded model by `pipeline("multi-task", model=model, tokenizer=tokenizer)` or
    `model.as_pipeline(tokenizer)`.

    A call takes a text, or a tuple of two texts to compare, and returns a dictionary. For an iterable of these, it
    returns a list of dictionaries in the same order:

        {
            "embedding": [0.01, ...],                                  # H floats
            "<sequence task>": {"label": "Sports", "score": 0.98, "scores": {"World": 0.01, ...}},
            "<multi-label task>": {"labels": ["oil", "trade"], "scores": {"oil": 0.93, "trade": 0.71, ...}},
            "<token task>": [{"label": "GPE", "start": 0, "end": 5, "text": "Paris", "score": 0.97}, ...],
        }

    For two texts, the answer also has the `"pair_embedding"` of the second text and, for every pair task,
    `{"label", "score", "scores"}`, or `{"score": cosine}` for a similarity. Other answers are about the first text.

    `start` and `end` count characters, and `text[start:end] == entity["text"]`. The score of an entity is the mean
    probability of its tags, or what calibration makes of it. Texts that are too long for the model are read in windows
    that overlap: tags are joined in the middle of that and decoded over the whole text; the rest is averaged.

    Texts of similar length are encoded together: `batch_size` of them or, by default, as many as make about 512 tokens
    on a CPU, where throughput is highest, and 16,384 on a GPU. On a CPU several batches run in parallel, with one
    thread each.

    Args:
        model ([`MTSBertModel`]): The model.
        tokenizer (`PreTrainedTokenizerBase`, `str` or `Path`, *optional*):
            The tokenizer, or a folder or Hub id to load it from, without running code from there. Defaults to the
            tokenizer saved with the model.
        tasks, top_k, threshold, return_embeddings, batch_size (*optional*):
            Defaults for every call; see [`~MTSBertPipeline.__call__`].
        kwargs: Other arguments of [`Pipeline`] (`device` …).

    Raises:
        `ValueError`: If the model is a single-task view of a checkpoint, or no tokenizer is found.
        `TypeError`: If a parameter is unknown.

    Example:

        ask = model.as_pipeline(tokenizer, top_k=2)
        ask("Oslo beat Lima in the final", tasks=["topic"])["topic"]["scores"]  # {"Sports": 0.98, "World": 0.01}
    """

    _load_tokenizer = True
    _load_processor = _load_image_processor = _load_video_processor = _load_feature_extractor = False

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | str | Path | None = None, **kwargs
    ):
        if (head := getattr(model, "head", None)) is not None:
            raise ValueError(
                f"This model is a view of a checkpoint that answers with the head {head!r} alone. Open the checkpoint "
                "with `AutoModel` for the multi-task pipeline."
            )
        if tokenizer is None or isinstance(tokenizer, str | Path):
            tokenizer = saved_tokenizer(model, tokenizer)
        if tokenizer.truncation_side != "right":  # windows follow each other from left to right
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.truncation_side = "right"
        super().__init__(model=model, tokenizer=tokenizer, **kwargs)
        self._sanitize_parameters(batch_size=self._batch_size)

    def __call__(
        self,
        inputs: str | tuple[str, str] | Iterable[str | tuple[str, str]],
        *,
        batch_size: int | None = None,
        **parameters,
    ) -> dict | list[dict]:
        """
        Answers texts and pairs of texts. Parameters given here override those given to the constructor.

        Args:
            inputs (`str`, `tuple[str, str]`, `{"text", "text_pair"}`, or an iterable of them):
                One or several texts or pairs of texts. An iterator, such as a generator, or a torch `Dataset` is read
                1,024 texts at a time.
            batch_size (`int`, *optional*):
                Number of texts to encode at once. By default it depends on their length.
            tasks (`str` or `Iterable[str]`, *optional*):
                The tasks to answer, by default all. Other heads are not computed. Embeddings are not a task; see
                `return_embeddings`.
            top_k (`int`, *optional*):
                Number of labels in `"scores"`, sorted by descending score. By default all labels, in the order of the
                config. Does not limit the `"labels"` of a multi-label task.
            threshold (`float` or `dict[str, float]`, *optional*):
                A probability for all tasks, or one per task, instead of the `thresholds` of the config. `"labels"` of
                a multi-label task are those with a score above it (default: 0.5). Entities need at least this score
                (default: `min_score` of the task). For other classification tasks, `"label"` is `None` if its score is
                below the threshold (default: never). Similarities have no threshold. At 1, no label is given.
            return_embeddings (`bool` or `"numpy"`, *optional*, defaults to `True`):
                `True` returns embeddings as lists of floats, `"numpy"` as float32 arrays of shape `(H,)`, and `False`
                leaves them out.

        Returns:
            `dict` for a single input, `list[dict]` for an iterable, and an iterator of `dict` for an iterator.

        Raises:
            `ValueError`: If an input is not a text or a pair of texts, or a parameter has an impossible value.
            `TypeError`: If a parameter is unknown.
        """
        _, of_forward, of_answers = self._sanitize_parameters(batch_size=batch_size, **parameters)
        of_forward = {**self._forward_params, **of_forward}
        of_answers = {**self._postprocess_params, **of_answers}
        return_embeddings = of_answers.pop("return_embeddings", True)
        if isinstance(inputs, Iterator | Dataset):
            return self._stream(inputs, {"batch_size": batch_size, **parameters})
        is_single = isinstance(inputs, str | tuple | dict)
        is_single |= not (hasattr(inputs, "__iter__") or hasattr(inputs, "__getitem__"))  # and no text: refused below
        if not is_single and hasattr(inputs, "columns"):
            raise ValueError("The pipeline takes texts, and this is a table; give one of its columns, as a list.")
        rows = [text_or_pair(row, index) for index, row in enumerate([inputs] if is_single else inputs)]
        if not rows:
            return []
        paired = [index for index, row in enumerate(rows) if not isinstance(row, str)]
        texts = [row if isinstance(row, str) else row[0] for row in rows] + [rows[index][1] for index in paired]
        windows = self.preprocess(texts)
        answers = self._forward(windows, batch_size or self._batch_size, **of_forward)
        embeddings, results = self.postprocess(texts, windows, answers, **of_forward, **of_answers)
        shown = None
        if return_embeddings:
            shown = embeddings.numpy() if return_embeddings == "numpy" else embeddings.tolist()
        results = [({} if shown is None else {"embedding": shown[row]}) | results[row] for row in range(len(rows))]
        for second, index in enumerate(paired, start=len(rows)):
            if shown is not None:
                results[index]["pair_embedding"] = shown[second]
            results[index] |= self.compare(embeddings[index], embeddings[second], **of_forward, **of_answers)
        return results[0] if is_single else results

    def _stream(self, inputs: Iterator | Dataset, options: dict) -> Iterator[dict]:
        """Answers a few texts at a time, so that memory does not grow and the first answers come soon."""
        rows = inputs if hasattr(inputs, "__iter__") else (inputs[index] for index in range(len(inputs)))
        rows = map(text_or_pair, rows, count())  # here, since every call numbers its texts from 0
        while some := list(islice(rows, LOOK_AHEAD)):
            yield from self(some, **options)

    def _sanitize_parameters(self, **parameters) -> tuple[dict, dict, dict]:
        if unknown := sorted(set(parameters) - {*FORWARD_PARAMETERS, *ANSWER_PARAMETERS, "batch_size"}):
            raise TypeError(f"The multi-task pipeline has no parameters {unknown}.")
        if (tasks := parameters.get("tasks")) is not None:
            parameters["tasks"] = list(self.model.config.select_tasks(tasks))
        for name in ("top_k", "batch_size"):
            value = parameters.get(name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"`{name}` is {value!r}; it must be a whole number of at least 1, or None.")
        check_threshold(parameters.get("threshold"), self.model.config.tasks)
        if (shown := parameters.get("return_embeddings", True)) not in (True, False, "numpy"):
            raise ValueError(f"`return_embeddings` is {shown!r}; it must be True, False or 'numpy'.")
        of_forward, of_answers = (
            {name: parameters[name] for name in names if name in parameters}
            for names in (FORWARD_PARAMETERS, ANSWER_PARAMETERS)
        )
        return {}, of_forward, of_answers

    @property
    def max_length(self) -> int:
        """Number of tokens that the model can read at once, including special tokens."""
        return min(self.tokenizer.model_max_length, self.num_positions or MOST_TOKENS)

    @cached_property
    def num_positions(self) -> int | None:
        """Number of tokens that the encoder has positions for; None if it does not say."""
        return num_positions(self.model.encoder)

    def preprocess(self, texts: list[str]) -> list[dict]:
        """
        Splits texts into windows: `{"text": index, "inputs", "offsets", "own"}`, where `own` are the positions whose
        tags are taken from this window and not from a neighbour that overlaps it.
        """
        max_length = self.max_length
        overlap = min(MAX_OVERLAP, (max_length - self.tokenizer.num_special_tokens_to_add()) // 4)
        encoded = self.tokenizer(
            texts,
            truncation=True,
            max_length=max_length,
            stride=overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )
        if any(len(pieces) == max_length for pieces in encoded["input_ids"]):
            for broken in BROKEN_TOKENIZERS:
                require_version(f"tokenizers!={broken}", "It loses parts of texts longer than the model reads.")
        of_windows = ("overflow_to_sample_mapping", "offset_mapping", "special_tokens_mask")
        text_of, offsets, special = map(encoded.pop, of_windows)
        windows = []
        for row, text in enumerate(text_of):
            content = [position for position, is_special in enumerate(special[row]) if not is_special]
            continues = row > 0 and text_of[row - 1] == text
            continued = row + 1 < len(text_of) and text_of[row + 1] == text
            first = overlap // 2 if continues else 0
            last = len(content) - (overlap - overlap // 2) if continued else len(content)
            visible = visible_offsets(offsets[row], texts[text])
            own = [position for position in content[first:last] if visible[position][0] < visible[position][1]]
            inputs = {name: values[row] for name, values in encoded.items()}
            windows.append({"text": text, "offsets": visible, "own": own, "inputs": inputs})
        return windows

    def _batches(self, windows: list[dict], batch_size: int | None) -> Iterator[list[int]]:
        """Groups windows into batches, longest first, so that running out of memory shows at once."""
        lengths = [len(window["inputs"]["input_ids"]) for window in windows]
        budget = TOKENS_PER_THREAD if self.device.type == "cpu" else TOKENS_PER_GPU
        rows = sorted(range(len(windows)), key=lengths.__getitem__, reverse=True)
        first = 0
        while first < len(rows):
            size = batch_size or max(1, budget // (lengths[rows[first]] or 1))
            yield rows[first : first + size]
            first += size

    def _forward(self, windows: list[dict], batch_size: int | None, *, tasks: list[str] | None = None) -> list[dict]:
        """
        Runs the model. Returns for each window `{"embedding": (H,)}` and by task the probabilities `(C,)`, or the
        log-probabilities `(T, K)` of its own positions.
        """
        answers: list[dict] = [{} for _ in windows]
        batches = list(self._batches(windows, batch_size))

        def answer(rows: list[int]) -> None:
            of_rows = [windows[row]["inputs"] for row in rows]
            how = {} if of_rows[0]["input_ids"] else {"padding": "max_length", "max_length": 1}  # at least a token
            inputs = self.tokenizer.pad(of_rows, **how, padding_side="right", return_tensors="pt")
            output = self._outputs(inputs.to(self.device), is_alone=len(batches) == 1, tasks=tasks)
            embeddings = output.pooler_output.float().cpu()
            for place, row in enumerate(rows):
                answers[row]["embedding"] = embeddings[place]
            for task, logits in output.logits.items():
                settings = self.model.config.tasks[task]
                is_token_task = settings["type"] == TOKEN_CLASSIFICATION
                scores = logits.float().log_softmax(dim=-1) if is_token_task else probabilities_of(settings, logits)
                scores = scores.cpu()
                for place, row in enumerate(rows):
                    answers[row][task] = scores[place, windows[row]["own"]] if is_token_task else scores[place]

        side_by_side(answer, batches, self.device)
        return answers

    def _outputs(self, inputs: BatchEncoding, *, is_alone: bool, tasks: list[str] | None) -> ModelOutput:
        """Runs the model on one batch; `is_alone` says that no other batch runs in parallel."""
        return self.model(**inputs, tasks=tasks)

    def postprocess(
        self,
        texts: list[str],
        windows: list[dict],
        answers: list[dict],
        *,
        tasks: list[str] | None = None,
        top_k: int | None = None,
        threshold: float | dict[str, float] | None = None,
    ) -> tuple[torch.Tensor, list[dict]]:
        """
        Joins the windows of each text.

        Args:
            texts (`list[str]`): The texts.
            windows (`list[dict]`): What `preprocess` returned.
            answers (`list[dict]`): What `_forward` returned.
            tasks, top_k, threshold (*optional*): See [`~MTSBertPipeline.__call__`].

        Returns:
            The embeddings `(B, H)`, and for every text the answers of the tasks on single texts.
        """
        rows_of: list[list[int]] = [[] for _ in texts]
        for row, window in enumerate(windows):
            rows_of[window["text"]].append(row)
        embeddings = torch.stack([_mean_of(answers, rows, "embedding") for rows in rows_of])
        if self.model.config.normalize:
            embeddings = torch.nn.functional.normalize(embeddings, dim=-1)
        results: list[dict] = [{} for _ in texts]
        offsets = [
            [windows[row]["offsets"][position] for row in rows for position in windows[row]["own"]] for rows in rows_of
        ]
        for task, settings in self.model.config.select_tasks(tasks).items():
            cut = threshold_of(task, threshold)
            if settings["type"] == TOKEN_CLASSIFICATION:
                scores = [torch.cat([answers[row][task] for row in rows]) for rows in rows_of]
                least = {} if cut is None else {"min_score": cut, "thresholds": {}}
                found = entities_of(texts, offsets, scores, settings | least)
            elif settings["type"] not in PAIR_TYPES:
                found = [
                    labels_of(settings, _mean_of(answers, rows, task), top_k=top_k, threshold=cut) for rows in rows_of
                ]
            else:
                continue
            for result, answer in zip(results, found, strict=True):
                result[task] = answer
        return embeddings, results

    def compare(
        self,
        embedding: torch.Tensor,
        pair_embedding: torch.Tensor,
        *,
        tasks: list[str] | None = None,
        top_k: int | None = None,
        threshold: float | dict[str, float] | None = None,
    ) -> dict[str, dict]:
        """
        Answers the pair tasks.

        Args:
            embedding (`torch.Tensor` of shape `(H,)`): Of the first text.
            pair_embedding (`torch.Tensor` of shape `(H,)`): Of the second text.
            tasks, top_k, threshold (*optional*): See [`~MTSBertPipeline.__call__`].
        """
        u, v = (x.unsqueeze(0).to(self.device, self.model.dtype) for x in (embedding, pair_embedding))
        result = {}
        for task, settings in self.model.config.select_tasks(tasks).items():
            if settings["type"] not in PAIR_TYPES:
                continue
            with torch.inference_mode():
                logits = self.model.pair_logits(task, u, v)[0]
            if settings["type"] in COSINE_TYPES:
                result[task] = {"score": logits.item()}
            else:
                probabilities, cut = probabilities_of(settings, logits).cpu(), threshold_of(task, threshold)
                result[task] = labels_of(settings, probabilities, top_k=top_k, threshold=cut)
        return result


class PipelineOfModel:
    """
    What is registered for `pipeline("multi-task", model=model)` with a loaded model: builds the model's own pipeline.

    All checkpoints of a program share one registry. If it held the pipeline class of the checkpoint that was loaded
    first, that class would also be used for later ones, which may have come with another version of this file.
    """

    _load_tokenizer = False  # `as_pipeline` loads it, without running code from the checkpoint
    _load_processor = _load_image_processor = _load_video_processor = _load_feature_extractor = False

    def __new__(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | str | Path | None = None, **kwargs):
        if not hasattr(model, "as_pipeline"):
            raise ValueError(f"The multi-task pipeline is for models of mtsbert; this is a {type(model).__name__}.")
        return model.as_pipeline(tokenizer, **kwargs)


if PIPELINE_TASK not in PIPELINE_REGISTRY.get_supported_tasks():  # only the first checkpoint of a program registers
    PIPELINE_REGISTRY.register_pipeline(PIPELINE_TASK, PipelineOfModel, pt_model=AutoModel, type="text")


def saved_tokenizer(model: PreTrainedModel, name_or_path: str | Path | None = None) -> PreTrainedTokenizerBase:
    """
    Loads a tokenizer, by default the one saved with the model. No code from there is run.

    Raises:
        `ValueError`: If there is no tokenizer.
    """
    revision = tokenizer = None
    if name_or_path is None:
        name_or_path, revision = model.name_or_path, getattr(model, "revision", None)
    if name_or_path:
        tokenizer = AutoTokenizer.from_pretrained(
            name_or_path, config=model.config.encoder_config, revision=revision, trust_remote_code=False
        )
    # If the files are missing, transformers returns a tokenizer that knows only special tokens.
    if tokenizer is None or len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ValueError(f"No tokenizer found under {name_or_path!r}; give one: `tokenizer=…`.")
    return tokenizer


def text_or_pair(row: Any, index: int) -> str | tuple[str, str]:
    """Returns an input of the pipeline as a text or a tuple of two. Raises `ValueError` for anything else."""
    if isinstance(row, dict) and set(row) <= {"text", "text_pair"} and "text" in row:
        row = row["text"] if row.get("text_pair") is None else (row["text"], row["text_pair"])
    texts = row if isinstance(row, tuple) and len(row) == 2 else (row,)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f'Text {index} is {row!r}; the pipeline takes strings, tuples of two strings, and {{"text", "text_pair"}}.'
        )
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"Text {index} has a half of a surrogate pair, which is no character: {error}.") from None
    return row


def _mean_of(answers: list[dict], rows: list[int], name: str) -> torch.Tensor:
    """The mean over the windows of a text, of which most texts have only one."""
    return answers[rows[0]][name] if len(rows) == 1 else torch.stack([answers[row][name] for row in rows]).mean(dim=0)


def save_sentence_transformers_files(config: MTSBertConfig, folder: Path) -> None:
    """
    Writes the files by which `SentenceTransformer(folder)` finds the pooling of a model or encoder saved there, in a
    format that all its versions know; those of an embedding that was cut, from 3.0 on.
    """
    is_cut = config.embedding_size < config.hidden_size
    folders = ["0_Transformer", "1_Pooling", *["2_Dense"] * is_cut, *[f"{2 + is_cut}_Normalize"] * config.normalize]
    modes = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
    pooling = {f"pooling_mode_{mode}": pooling == config.pooling for pooling, mode in modes.items()}
    files = {
        "modules.json": [
            {"idx": i, "name": str(i), "path": name if i else "", "type": f"sentence_transformers.models.{name[2:]}"}
            for i, name in enumerate(folders)
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": config.hidden_size, **pooling},
        "sentence_bert_config.json": {"do_lower_case": False},  # the longest text is what the tokenizer says
        ST_CONFIG: {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"},
    }
    files[ST_CONFIG] |= config.sentence_transformers
    if (path := folder / ST_CONFIG).is_file() and "__version__" in (written := json.loads(path.read_text("utf-8"))):
        files[ST_CONFIG] |= written  # by that library, with prompts and a similarity that are not ours to change
    if is_cut:  # a matrix that keeps the first numbers
        sizes = {"in_features": config.hidden_size, "out_features": config.embedding_size, "bias": False}
        files["2_Dense/config.json"] = sizes | {"activation_function": "torch.nn.modules.linear.Identity"}
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if is_cut:
        weights = {"linear.weight": torch.eye(config.embedding_size, config.hidden_size)}
        save_file(weights, folder / "2_Dense" / SAFE_WEIGHTS_NAME)
