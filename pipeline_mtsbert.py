"""Texts in; sentence embedding, labels and entities out, with one encoder pass per batch."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchEncoding, Pipeline
from transformers.utils import ModelOutput
from transformers.utils.versions import require_version


try:  # part of a package: how `trust_remote_code=True` loads this file
    from .configuration_mtsbert import PAIR_SIMILARITY, PAIR_TYPES, TOKEN_CLASSIFICATION
    from .entities_mtsbert import decode_tags, tags_to_spans, visible_offsets
except ImportError:  # run from a clone, with the repository root on `sys.path`
    from configuration_mtsbert import PAIR_SIMILARITY, PAIR_TYPES, TOKEN_CLASSIFICATION
    from entities_mtsbert import decode_tags, tags_to_spans, visible_offsets


# Word pieces in a pass, padding included: as much as a core's cache holds, and what a GPU is busy with.
TOKENS_PER_THREAD, TOKENS_PER_GPU = 512, 16_384
TEXTS_PER_DECODING, PLACES_PER_DECODING = 64, 32_768  # the places of all texts, padded to the longest of them
# Releases that lose windows of long texts without a word: https://github.com/huggingface/tokenizers/issues/2091
BROKEN_TOKENIZERS = ("0.23.1", "0.23.2")
MAX_OVERLAP = 64  # word pieces that two neighbouring windows of a long text share, at most


class MTSBertPipeline(Pipeline):
    """
    `pipeline("multi-task", model=folder_or_id, trust_remote_code=True)`.

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
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __call__(
        self, inputs: str | tuple[str, str] | Iterable[str | tuple[str, str]], *, batch_size: int | None = None
    ) -> dict | list[dict]:
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
        answers = self._forward(windows, batch_size or self._batch_size)
        results = self.postprocess(texts, windows, answers)
        for second, index in enumerate(paired, start=len(rows)):
            results[index] |= self.compare(results[index]["embedding"], results[second]["embedding"])
        return results[0] if is_single else results[: len(rows)]

    def _sanitize_parameters(self, **unknown):
        if unknown:
            raise TypeError(f"The multi-task pipeline has no parameters {sorted(unknown)}.")
        return {}, {}, {}

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
        if any(len(pieces) == max_length for pieces in encoded["input_ids"]):
            for broken in BROKEN_TOKENIZERS:
                require_version(
                    f"tokenizers!={broken}", "It loses parts of texts that are longer than the model reads."
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

    def _forward(self, windows: list[dict], batch_size: int | None) -> list[dict]:
        """Per window: `{"embedding": (H,), task: probabilities (C,) or scores of its own positions (T, K)}`."""
        answers: list[dict] = [{} for _ in windows]
        batches = list(self._batches(windows, batch_size))
        is_alone = len(batches) == 1

        def answer(rows: list[int]) -> None:
            inputs = self.tokenizer.pad(
                [windows[row]["inputs"] for row in rows], padding_side="right", return_tensors="pt"
            )
            output = self._outputs(inputs.to(self.device), is_alone=is_alone)
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

    def _outputs(self, inputs: BatchEncoding, *, is_alone: bool) -> ModelOutput:
        """What the model says of a pass; it `is_alone` where no other is computed beside it."""
        return self.model(**inputs)

    def postprocess(self, texts: list[str], windows: list[dict], answers: list[dict]) -> list[dict]:
        rows_of: list[list[int]] = [[] for _ in texts]
        for row, window in enumerate(windows):
            rows_of[window["text"]].append(row)
        embeddings = torch.stack([_mean_of(answers, rows, "embedding") for rows in rows_of])
        if self.model.config.normalize:
            embeddings = torch.nn.functional.normalize(embeddings, dim=-1)
        results = [{"embedding": embedding} for embedding in embeddings.tolist()]
        offsets = [
            [windows[row]["offsets"][position] for row in rows for position in windows[row]["own"]] for rows in rows_of
        ]
        for task, settings in self.model.config.tasks.items():
            if settings["type"] == TOKEN_CLASSIFICATION:
                scores = [torch.cat([answers[row][task] for row in rows]) for rows in rows_of]
                min_score = settings.get("min_score", 0.0)
                found = entities_of(texts, offsets, scores, settings["labels"], min_score=min_score)
            elif settings["type"] not in PAIR_TYPES:
                found = [labels_of(settings, _mean_of(answers, rows, task)) for rows in rows_of]
            else:
                continue
            for result, answer in zip(results, found, strict=True):
                result[task] = answer
        return results

    def compare(self, embedding: list[float], pair_embedding: list[float]) -> dict:
        """What the pair tasks say of two embeddings."""
        u, v = (
            torch.tensor([values], dtype=self.model.dtype, device=self.device)
            for values in (embedding, pair_embedding)
        )
        result: dict = {"pair_embedding": pair_embedding}
        for task, settings in self.model.config.tasks.items():
            if settings["type"] not in PAIR_TYPES:
                continue
            with torch.inference_mode():
                logits = self.model.pair_logits(task, u, v)[0]
            if settings["type"] == PAIR_SIMILARITY:
                result[task] = {"score": logits.item()}
            else:
                result[task] = labels_of(settings, probabilities_of(settings, logits).cpu())
        return result


def probabilities_of(settings: dict, logits: torch.Tensor) -> torch.Tensor:
    """Logits `(…, C)` of a task about whole texts → probabilities, which add up to 1 unless it is multi-label."""
    return logits.float().sigmoid() if settings.get("multi_label") else logits.float().softmax(dim=-1)


def labels_of(settings: dict, probabilities: torch.Tensor) -> dict:
    """The answer of a task about whole texts, from its probabilities `(C,)`."""
    scores = dict(zip(settings["labels"], probabilities.tolist(), strict=True))
    if settings.get("multi_label"):
        return {"labels": [label for label, score in scores.items() if score > 0.5], "scores": scores}
    label = max(scores, key=scores.__getitem__)
    return {"label": label, "score": scores[label], "scores": scores}


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
