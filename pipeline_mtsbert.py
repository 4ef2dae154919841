"""Texts in; sentence embedding, labels and entities out, with one encoder pass per batch."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoTokenizer, BatchEncoding, Pipeline, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import ModelOutput


try:  # part of a package: how `trust_remote_code=True` loads this file
    from .configuration_mtsbert import PAIR_SIMILARITY, PAIR_TYPES, TOKEN_CLASSIFICATION
    from .entities_mtsbert import decode_tags, tags_to_spans, visible_offsets
    from .heads_mtsbert import labels_of, probabilities_of
except ImportError:  # run from a clone, with the repository root on `sys.path`
    from configuration_mtsbert import PAIR_SIMILARITY, PAIR_TYPES, TOKEN_CLASSIFICATION
    from entities_mtsbert import decode_tags, tags_to_spans, visible_offsets
    from heads_mtsbert import labels_of, probabilities_of


# Word pieces in a pass, padding included: as much as a core's cache holds, and what a GPU is busy with.
TOKENS_PER_THREAD, TOKENS_PER_GPU = 512, 16_384
TEXTS_PER_DECODING, PLACES_PER_DECODING = 64, 32_768  # the places of all texts, padded to the longest of them
MAX_OVERLAP = 64  # word pieces that two neighbouring windows of a long text share, at most

PIPELINE_TASK = "multi-task"
FORWARD_PARAMETERS = ("tasks",)
ANSWER_PARAMETERS = ("top_k", "threshold", "return_embeddings")


class MTSBertPipeline(Pipeline):
    """
    `pipeline("multi-task", model=folder_or_id, trust_remote_code=True)`, or of a model that is loaded already
    `pipeline("multi-task", model=model, tokenizer=tokenizer)` and `model.as_pipeline(tokenizer)`.

    A call takes a text, or a tuple of two texts to compare, and returns a dictionary; or an iterable of them, and
    returns a list in the same order:

        {
            "embedding": [0.01, ...],                                  # H floats
            "<sequence task>": {"label": "Sports", "score": 0.98, "scores": {"World": 0.01, ...}},
            "<multi-label task>": {"labels": ["oil", "trade"], "scores": {"oil": 0.93, "trade": 0.71, ...}},
            "<token task>": [{"label": "GPE", "start": 0, "end": 5, "text": "Paris", "score": 0.97}, ...],
        }

    Two texts have `"pair_embedding"` beside the `"embedding"` of the first one, and for every pair task
    `{"label", "score", "scores"}`, or `{"score": cosine}` for a similarity; the other tasks are about the first text.

    `start` and `end` count characters, and `text[start:end] == entity["text"]`. An entity's score is the mean
    probability of its tags. Texts longer than the model are read in overlapping windows: tags are joined in the middle
    of the overlap and decoded over the whole text, probabilities and embeddings are averaged.

    Texts of like length share a pass: as many as `batch_size` says, or without it as many as make a pass of about 512
    word pieces for a thread of the processor, which is where texts per second are highest (16,384 on a GPU). Several
    passes are computed side by side on a processor, with a thread each.

    Args:
        model ([`MTSBertModel`]): The model that answers.
        tokenizer (`PreTrainedTokenizerBase` or `str`, *optional*):
            The tokenizer, or the folder or Hub id that it is saved in, of which no code is run. Defaults to the one
            saved beside the model.
        tasks, top_k, threshold, return_embeddings, batch_size (*optional*):
            What a call does unless it says otherwise; see [`~MTSBertPipeline.__call__`].
        kwargs: Those of every [`Pipeline`] (`device` …).

    Raises:
        `ValueError`: for a view of a checkpoint, which answers with one head alone, and where no tokenizer is found.
        `TypeError`: for a parameter that does not exist.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

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
        super().__init__(model=model, tokenizer=tokenizer, **kwargs)

    def __call__(
        self,
        inputs: str | tuple[str, str] | Iterable[str | tuple[str, str]],
        *,
        batch_size: int | None = None,
        **parameters,
    ) -> dict | list[dict]:
        """
        Answers about texts and pairs of texts. A parameter that is given here wins over the pipeline's own.

        Args:
            inputs (`str`, `tuple[str, str]` or an iterable of them): The texts.
            batch_size (`int`, *optional*): Texts in a pass; see above.
            tasks (`str` or `Iterable[str]`, *optional*, defaults to all of them):
                The tasks to answer; other heads are not computed. The embedding is not a task: see
                `return_embeddings`.
            top_k (`int`, *optional*, defaults to all labels in the order of the config):
                How many labels `"scores"` has: the most probable ones, the best first. `"labels"` of a multi-label
                task is not cut.
            threshold (`float` or `dict[str, float]`, *optional*):
                A probability for all tasks, or by task. Of a multi-label task the labels above it are given (0.5 by
                default), of a token task the entities with at least this score (`min_score` of the config by default);
                and any other `"label"` is `None` if its score is below it (never by default). A similarity has none.
            return_embeddings (`bool` or `"numpy"`, *optional*, defaults to `True`):
                `True` for lists of floats, `"numpy"` for float32 arrays `(H,)`, `False` to leave embeddings out.

        Returns:
            `dict`, or `list[dict]` for an iterable.

        Raises:
            `ValueError`: for anything that is no text, and for a parameter's value that cannot be.
            `TypeError`: for a parameter that does not exist.
        """
        _, of_forward, of_answers = self._sanitize_parameters(**parameters)
        of_forward = {**self._forward_params, **of_forward}
        of_answers = {**self._postprocess_params, **of_answers}
        return_embeddings = of_answers.pop("return_embeddings", True)
        is_single = isinstance(inputs, str | tuple)
        rows = [inputs] if is_single else list(inputs)
        for index, row in enumerate(rows):
            is_pair = isinstance(row, tuple) and len(row) == 2
            if not isinstance(row, str) and not (is_pair and all(isinstance(text, str) for text in row)):
                raise ValueError(f"Text {index} is {row!r}; the pipeline takes strings, and tuples of two strings.")
        if not rows:
            return []
        firsts = [row if isinstance(row, str) else row[0] for row in rows]
        paired = [index for index, row in enumerate(rows) if not isinstance(row, str)]
        texts = [*firsts, *(rows[index][1] for index in paired)]
        windows = self.preprocess(texts)
        answers = self._forward(windows, batch_size or self._batch_size, **of_forward)
        embeddings, results = self.postprocess(texts, windows, answers, **of_forward, **of_answers)
        shown = (
            embeddings.numpy() if return_embeddings == "numpy" else embeddings.tolist() if return_embeddings else None
        )
        results = [
            ({} if shown is None else {"embedding": shown[index]}) | results[index] for index in range(len(rows))
        ]
        for second, index in enumerate(paired, start=len(rows)):
            if shown is not None:
                results[index]["pair_embedding"] = shown[second]
            results[index] |= self.compare(embeddings[index], embeddings[second], **of_forward, **of_answers)
        return results[0] if is_single else results

    def _sanitize_parameters(self, **parameters) -> tuple[dict, dict, dict]:
        if unknown := sorted(set(parameters) - {*FORWARD_PARAMETERS, *ANSWER_PARAMETERS}):
            raise TypeError(f"The multi-task pipeline has no parameters {unknown}.")
        if (tasks := parameters.get("tasks")) is not None:
            parameters["tasks"] = list(self.model.config.select_tasks(tasks))
        top_k = parameters.get("top_k")
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise ValueError(f"`top_k` is {top_k!r}; it must be a whole number of at least 1, or None for all labels.")
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
        """Word pieces the model reads at once, special tokens included."""
        limits = [self.tokenizer.model_max_length]
        if (positions := getattr(self.model.config.get_text_config(), "max_position_embeddings", None)) is not None:
            limits.append(positions)
        return min(limits)

    def preprocess(self, texts: list[str]) -> list[dict]:
        """Windows of all texts, in order: `{"text": index, "inputs", "offsets", "own": positions it answers for}`."""
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
        text_of = encoded.pop("overflow_to_sample_mapping")
        offsets = encoded.pop("offset_mapping")
        special = encoded.pop("special_tokens_mask")
        windows = []
        for row, text in enumerate(text_of):
            content = [position for position, is_special in enumerate(special[row]) if not is_special]
            continues = row > 0 and text_of[row - 1] == text
            continued = row + 1 < len(text_of) and text_of[row + 1] == text
            first = overlap // 2 if continues else 0
            last = len(content) - (overlap - overlap // 2) if continued else len(content)
            visible = visible_offsets(offsets[row], texts[text])
            # The positions that this window, not its neighbour, answers for.
            own = [position for position in content[first:last] if visible[position][0] < visible[position][1]]
            inputs = {name: values[row] for name, values in encoded.items()}
            windows.append({"text": text, "offsets": visible, "own": own, "inputs": inputs})
        return windows

    def _batches(self, windows: list[dict], batch_size: int | None) -> Iterator[list[int]]:
        """The windows of every pass, longest first, so that what does not fit in memory shows at once."""
        lengths = [len(window["inputs"]["input_ids"]) for window in windows]
        budget = TOKENS_PER_THREAD if self.device.type == "cpu" else TOKENS_PER_GPU
        rows = sorted(range(len(windows)), key=lengths.__getitem__, reverse=True)
        first = 0
        while first < len(rows):
            size = batch_size or max(1, budget // lengths[rows[first]])
            yield rows[first : first + size]
            first += size

    def _forward(self, windows: list[dict], batch_size: int | None, *, tasks: list[str] | None = None) -> list[dict]:
        """Per window: `{"embedding": (H,), task: probabilities (C,) or scores of its own positions (T, K)}`."""
        answers: list[dict] = [{} for _ in windows]
        batches = list(self._batches(windows, batch_size))
        is_alone = len(batches) == 1

        def answer(rows: list[int]) -> None:
            inputs = self.tokenizer.pad(
                [windows[row]["inputs"] for row in rows], padding_side="right", return_tensors="pt"
            )
            output = self._outputs(inputs.to(self.device), is_alone=is_alone, tasks=tasks)
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
        """What the model says of a pass; it `is_alone` where no other is computed beside it."""
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
        """The embeddings `(B, H)` of the texts, and what each task about single texts says of every text."""
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
                min_score = settings.get("min_score", 0.0) if cut is None else cut
                found = entities_of(texts, offsets, scores, settings["labels"], min_score=min_score)
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
        """What the pair tasks say of two embeddings `(H,)`."""
        u, v = (x.unsqueeze(0).to(self.device, self.model.dtype) for x in (embedding, pair_embedding))
        result = {}
        for task, settings in self.model.config.select_tasks(tasks).items():
            if settings["type"] not in PAIR_TYPES:
                continue
            with torch.inference_mode():
                logits = self.model.pair_logits(task, u, v)[0]
            if settings["type"] == PAIR_SIMILARITY:
                result[task] = {"score": logits.item()}
            else:
                probabilities, cut = probabilities_of(settings, logits).cpu(), threshold_of(task, threshold)
                result[task] = labels_of(settings, probabilities, top_k=top_k, threshold=cut)
        return result


class PipelineOfModel:
    """
    What `pipeline("multi-task", model=model)` builds of a model that is loaded already: that model's own pipeline.

    transformers has one registry for all checkpoints in a program, so what stands in it must not be the pipeline of
    the checkpoint that was loaded first: each model is answered for by the code that it came with.
    """

    _load_tokenizer = False  # `as_pipeline` does that, without running the checkpoint's code
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __new__(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | str | Path | None = None, **kwargs):
        if not hasattr(model, "as_pipeline"):
            raise ValueError(
                f"The multi-task pipeline is one of mtsbert models, and this is a {type(model).__name__}."
            )
        return model.as_pipeline(tokenizer, **kwargs)


if PIPELINE_TASK not in PIPELINE_REGISTRY.get_supported_tasks():  # once in a program, by whichever checkpoint
    PIPELINE_REGISTRY.register_pipeline(PIPELINE_TASK, PipelineOfModel, pt_model=AutoModel, type="text")


def saved_tokenizer(model: PreTrainedModel, name_or_path: str | Path | None = None) -> PreTrainedTokenizerBase:
    """
    A saved tokenizer, of which no code is run; by default the one beside the model.

    Raises:
        `ValueError`: where there is none.
    """
    revision = None
    if name_or_path is None:
        name_or_path, revision = model.name_or_path, getattr(model.config, "_commit_hash", None)
    tokenizer = None
    if name_or_path:
        tokenizer = AutoTokenizer.from_pretrained(
            name_or_path, config=model.config.encoder_config, revision=revision, trust_remote_code=False
        )
    # transformers invents an empty tokenizer where the files are missing.
    if tokenizer is None or len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ValueError(f"No tokenizer found under {name_or_path!r}; give one: `tokenizer=…`.")
    return tokenizer


def check_threshold(threshold: Any, tasks: dict[str, dict]) -> None:
    """Raises `ValueError` unless it is None, a number in [0, 1], or such numbers by task."""
    for task, cut in threshold.items() if isinstance(threshold, dict) else [(None, threshold)]:
        where = "" if task is None else f" for task {task!r}"
        if task is not None and task not in tasks:
            raise ValueError(f"`threshold` names the task {task!r}; the model has {list(tasks)}.")
        if task is not None and tasks[task]["type"] == PAIR_SIMILARITY:
            raise ValueError(f"`threshold` names the task {task!r}, a similarity, which has no labels to leave out.")
        if cut is None and task is None:
            continue
        if not isinstance(cut, int | float) or isinstance(cut, bool) or not 0.0 <= cut <= 1.0:
            raise ValueError(f"`threshold`{where} is {cut!r}; it must be a probability in [0, 1].")


def threshold_of(task: str, threshold: float | dict[str, float] | None) -> float | None:
    return threshold.get(task) if isinstance(threshold, dict) else threshold


def entities_of(
    texts: list[str],
    offsets: list[list[tuple[int, int]]],
    scores: list[torch.Tensor],
    labels: list[str],
    *,
    min_score: float = 0.0,
) -> list[list[dict]]:
    """The entities of each text, from the log-probabilities `(T, K)` of its positions at `offsets`."""
    found: list[list[dict]] = [[] for _ in texts]
    groups: list[list[int]] = []
    for row in sorted((row for row in range(len(texts)) if offsets[row]), key=lambda row: len(offsets[row])):
        if not groups or len(groups[-1]) >= min(TEXTS_PER_DECODING, PLACES_PER_DECODING // len(offsets[row])):
            groups.append([])
        groups[-1].append(row)

    def decode(rows: list[int]) -> None:
        padded = pad_sequence([scores[row] for row in rows], batch_first=True)  # (B, T, K)
        lengths = torch.tensor([len(offsets[row]) for row in rows])
        text_mask = torch.arange(padded.shape[1]) < lengths.unsqueeze(1)
        tags = decode_tags(padded, text_mask, labels, min_score=min_score)
        confidence = padded.gather(2, tags.unsqueeze(2)).squeeze(2).exp().tolist()
        for row, tags_of_text, sure in zip(rows, tags.tolist(), confidence, strict=True):
            names = [labels[tag] for tag in tags_of_text[: len(offsets[row])]]
            for span in tags_to_spans(names, offsets[row]):
                start, end = span["start"], span["end"]
                score = fmean(sure[span["first"] : span["last"] + 1])
                entity = {"label": span["label"], "start": start, "end": end, "text": texts[row][start:end]}
                found[row].append(entity | {"score": score})

    side_by_side(decode, groups, torch.device("cpu"))
    return found


def side_by_side(work: Callable, items: list, device: torch.device) -> None:
    """
    `work` on every item, without gradients. On a processor each item is computed by one thread, several at a time:
    threads that share one item's work wait for each other. A GPU takes them one by one.
    """
    num_threads = torch.get_num_threads()
    if device.type != "cpu" or min(num_threads, len(items)) < 2:
        with torch.inference_mode():
            for item in items:
                work(item)
        return
    is_autocast, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def run(item: object) -> None:
        # A thread starts with gradients, and without its caller's autocast.
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=is_autocast):
            work(item)

    try:
        with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as threads:
            for _ in threads.map(run, items):  # raises what a thread raised
                pass
    finally:
        torch.set_num_threads(num_threads)  # what later threads start with; the workers changed it


def _mean_of(answers: list[dict], rows: list[int], name: str) -> torch.Tensor:
    """Of a text's windows; most have one."""
    return answers[rows[0]][name] if len(rows) == 1 else torch.stack([answers[row][name] for row in rows]).mean(dim=0)
