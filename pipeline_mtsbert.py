"""Texts in; sentence embedding, labels and entities out, with one encoder pass per batch."""

from collections.abc import Iterable

import torch
from transformers import Pipeline


try:  # part of a package: how `trust_remote_code=True` loads this file
    from .configuration_mtsbert import TOKEN_CLASSIFICATION
    from .entities_mtsbert import decode_tags, tags_to_spans
except ImportError:  # run from a clone, with the repository root on `sys.path`
    from configuration_mtsbert import TOKEN_CLASSIFICATION
    from entities_mtsbert import decode_tags, tags_to_spans


DEFAULT_BATCH_SIZE = 32
MAX_OVERLAP = 64  # word pieces that two neighbouring windows of a long text share, at most


class MTSBertPipeline(Pipeline):
    """
    `pipeline("multi-task", model=folder_or_id, trust_remote_code=True)`.

    A call takes a text or an iterable of texts and returns a dictionary, or a list of them in the same order:

        {
            "embedding": [0.01, ...],                                  # H floats
            "<sequence task>": {"label": "Sports", "score": 0.98, "scores": {"World": 0.01, ...}},
            "<token task>": [{"label": "GPE", "start": 0, "end": 5, "text": "Paris", "score": 0.97}, ...],
        }

    `start` and `end` count characters, and `text[start:end] == entity["text"]`. An entity's score is the mean
    probability of its tags. Texts longer than the model are read in overlapping windows: tags are joined in the middle
    of the overlap and decoded over the whole text, probabilities and embeddings are averaged.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __call__(self, inputs: str | Iterable[str], *, batch_size: int | None = None) -> dict | list[dict]:
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"Text {index} is {text!r}; the pipeline takes strings.")
        if not texts:
            return []
        windows = self.preprocess(texts)
        answers = self._forward(windows, batch_size or self._batch_size or DEFAULT_BATCH_SIZE)
        results = self.postprocess(texts, windows, answers)
        return results[0] if isinstance(inputs, str) else results

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
        """Windows of all texts: `{"text": index, "input_ids", …, "offsets", "mask"}`, in order."""
        max_length = self.max_length
        content = max_length - self.tokenizer.num_special_tokens_to_add()
        overlap = min(MAX_OVERLAP, content // 4)
        encoded = self.tokenizer(
            texts,
            truncation=True,
            max_length=max_length,
            stride=overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        text_of = encoded.pop("overflow_to_sample_mapping")
        offsets = encoded.pop("offset_mapping")
        windows = [
            {
                "text": text_of[row],
                "offsets": offsets[row],
                "inputs": {name: values[row] for name, values in encoded.items()},
            }
            for row in range(len(text_of))
        ]
        for row, window in enumerate(windows):
            in_text = [position for position, (start, end) in enumerate(window["offsets"]) if start < end]
            window["in_text"] = in_text
            continues = row > 0 and text_of[row - 1] == text_of[row]
            continued = row + 1 < len(windows) and text_of[row + 1] == text_of[row]
            first = overlap // 2 if continues else 0
            last = len(in_text) - (overlap - overlap // 2) if continued else len(in_text)
            window["own"] = in_text[first:last]  # the positions that this window, not its neighbour, answers for
        return windows

    def _forward(self, windows: list[dict], batch_size: int) -> list[dict]:
        """Per window: `{"embedding": (H,), task: probabilities (C,) or scores of its own positions (T, K)}`."""
        by_length = sorted(range(len(windows)), key=lambda row: len(windows[row]["inputs"]["input_ids"]))
        answers: list[dict] = [{} for _ in windows]
        for first in range(0, len(by_length), batch_size):
            rows = by_length[first : first + batch_size]
            batch = self.tokenizer.pad([windows[row]["inputs"] for row in rows], return_tensors="pt").to(self.device)
            with torch.inference_mode():
                output = self.model(**batch)
            embeddings = output.pooler_output.float().cpu()
            for place, row in enumerate(rows):
                answers[row]["embedding"] = embeddings[place]
            for task, logits in output.logits.items():
                scores = logits.float().log_softmax(dim=-1).cpu()
                for place, row in enumerate(rows):
                    is_token_task = self.model.config.tasks[task]["type"] == TOKEN_CLASSIFICATION
                    answers[row][task] = scores[place, windows[row]["own"]] if is_token_task else scores[place].exp()
        return answers

    def postprocess(self, texts: list[str], windows: list[dict], answers: list[dict]) -> list[dict]:
        rows_of: list[list[int]] = [[] for _ in texts]
        for row, window in enumerate(windows):
            rows_of[window["text"]].append(row)
        results = []
        for text, rows in zip(texts, rows_of, strict=True):
            embedding = torch.stack([answers[row]["embedding"] for row in rows]).mean(dim=0)
            if self.model.config.normalize:
                embedding = torch.nn.functional.normalize(embedding, dim=-1)
            result = {"embedding": embedding.tolist()}
            for task, settings in self.model.config.tasks.items():
                if settings["type"] == TOKEN_CLASSIFICATION:
                    offsets = [windows[row]["offsets"][position] for row in rows for position in windows[row]["own"]]
                    scores = torch.cat([answers[row][task] for row in rows])
                    result[task] = entities_of(text, offsets, scores, settings["labels"])
                else:
                    probabilities = torch.stack([answers[row][task] for row in rows]).mean(dim=0)
                    best = int(probabilities.argmax())
                    scores = dict(zip(settings["labels"], probabilities.tolist(), strict=True))
                    label = settings["labels"][best]
                    result[task] = {"label": label, "score": scores[label], "scores": scores}
            results.append(result)
        return results


def entities_of(text: str, offsets: list[tuple[int, int]], scores: torch.Tensor, labels: list[str]) -> list[dict]:
    """The entities of one text, from the log-probabilities `(T, K)` of the positions at `offsets`."""
    if not offsets:
        return []
    everywhere = torch.ones(1, len(offsets), dtype=torch.bool)
    tags = decode_tags(scores.unsqueeze(0), everywhere, labels)[0]
    confidence = scores.gather(1, tags.unsqueeze(1)).squeeze(1).exp()
    entities = []
    for span in tags_to_spans([labels[tag] for tag in tags.tolist()], offsets):
        start, end = span["start"], span["end"]
        score = confidence[span["first"] : span["last"] + 1].mean().item()
        entities.append({"label": span["label"], "start": start, "end": end, "text": text[start:end], "score": score})
    return entities
