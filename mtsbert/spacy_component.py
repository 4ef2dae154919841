"""Runs an mtsbert checkpoint as a spaCy component: `nlp.add_pipe("mtsbert", config={"model": "runs/news"})`.

spaCy finds the component by itself if the project is installed. In a clone, import this module first.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from spacy import Language
from spacy.scorer import Scorer, get_ner_prf
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.util import filter_spans, minibatch

from configuration_mtsbert import SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from mtsbert.exports.pipeline import GRAPH_FILES, ExportedPipeline, load_pipeline
from mtsbert.network.adapters import has_adapters, merge_adapters


@Language.factory(
    "mtsbert",
    assigns=["doc.ents", "doc.cats", "doc._.mtsbert"],
    default_config={"revision": None, "entity_task": None, "overwrite": True},
    default_score_weights={"ents_f": 1.0, "ents_p": 0.0, "ents_r": 0.0, "ents_per_type": None},
)
def create_component(
    nlp: Language, name: str, model: str, revision: str | None, entity_task: str | None, overwrite: bool
) -> "MTSBertComponent":
    """
    Creates the component for `nlp.add_pipe("mtsbert", ...)`.

    Args:
        nlp (`Language`): The pipeline; not used.
        name (`str`): The name of the component; not used.
        model (`str`): The checkpoint or adapter: a folder or a Hub id; or the folder of an export.
        revision (`str`, *optional*): Branch, tag or commit of a Hub id.
        entity_task, overwrite (*optional*): See [`MTSBertComponent`].
    """
    return MTSBertComponent(model, revision=revision, entity_task=entity_task, overwrite=overwrite)


class MTSBertComponent:
    """
    Sets labels, entities and the sentence embedding on spaCy documents, with one forward pass per batch of texts:

    - `doc.ents`: the entities of `entity_task`, extended to whole spaCy tokens if they begin or end inside one;
    - `doc.cats`: label → probability for all text classification tasks (`task/label` if there are several tasks);
    - `doc.vector`: the sentence embedding, float32 of shape `(H,)`;
    - `doc._.mtsbert`: the output of [`MTSBertPipeline`], with the exact character offsets of each entity.

    spaCy drops `doc.vector` when a document is serialized, for example between processes (`n_process`); the embedding
    in `doc._.mtsbert` is kept. The model is loaded when the first text arrives.

    Args:
        model (`str`): The checkpoint or adapter: a folder or a Hub id; or the folder of an export.
        revision (`str`, *optional*): Branch, tag or commit of a Hub id.
        entity_task (`str`, *optional*): The task that sets `doc.ents`. Default: the first token classification task,
            if there is one.
        overwrite (`bool`, *optional*, defaults to `True`): Whether to replace the entities that a component before
            this one has set, such as an `entity_ruler`. Otherwise these are kept, and win where both overlap.

    Raises:
        `ValueError`: at the first text, if the checkpoint or the task does not exist.

    Example:

        >>> nlp = spacy.blank("en")
        >>> nlp.add_pipe("mtsbert", config={"model": "runs/quickstart"})
        >>> doc = nlp("Nokia opens a research centre in Nairobi")
        >>> doc.ents, doc.cats, doc.vector
    """

    def __init__(
        self, model: str, *, revision: str | None = None, entity_task: str | None = None, overwrite: bool = True
    ):
        self._overwrites = overwrite
        if not Doc.has_extension("mtsbert"):
            Doc.set_extension("mtsbert", default=None)
        self._model, self._revision, self._entity_task = model, revision, entity_task
        self._pipeline, self._process = None, os.getpid()

    @property
    def pipeline(self):
        if self._pipeline is None:
            self._pipeline = load_pipeline(self._model, revision=self._revision)
            tasks = self._pipeline.model.config.tasks
            self._text_tasks = [name for name, task in tasks.items() if task["type"] == SEQUENCE_CLASSIFICATION]
            token_tasks = [name for name, task in tasks.items() if task["type"] == TOKEN_CLASSIFICATION]
            if self._entity_task is None and token_tasks:
                self._entity_task = token_tasks[0]
            if self._entity_task is not None and self._entity_task not in token_tasks:
                raise ValueError(
                    f"`entity_task` is {self._entity_task!r}; the token classification tasks of {self._model!r} are "
                    f"{token_tasks}."
                )
        return self._pipeline

    def __call__(self, doc: Doc) -> Doc:
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 64) -> Iterator[Doc]:
        if os.getpid() != self._process:  # forked by `n_process`: torch's threads would deadlock
            torch.set_num_threads(1)
        for docs in minibatch(stream, batch_size):
            for doc, answer in zip(docs, self.pipeline([doc.text for doc in docs]), strict=True):
                yield self._annotated(doc, answer)

    def _annotated(self, doc: Doc, answer: dict) -> Doc:
        if self._entity_task is not None:
            spans = [] if self._overwrites else [*doc.ents]
            spans += [
                doc.char_span(entity["start"], entity["end"], label=entity["label"], alignment_mode="expand")
                for entity in answer[self._entity_task]
            ]
            doc.ents = filter_spans(spans) if self._overwrites else _first_ones(spans)
        for task in self._text_tasks:
            prefix = f"{task}/" if len(self._text_tasks) > 1 else ""
            doc.cats |= {prefix + label: score for label, score in answer[task]["scores"].items()}
        doc.vector = np.array(answer["embedding"], dtype=np.float32)
        doc._.mtsbert = answer
        return doc

    def score(self, examples: Iterable[Example], **kwargs) -> dict[str, float]:
        """What `nlp.evaluate` reports: entities as spaCy's `ner` does, and the categories of a single text task."""
        scores = get_ner_prf(examples) if self.pipeline and self._entity_task is not None else {}
        if len(self._text_tasks) == 1:
            task = self.pipeline.model.config.tasks[self._text_tasks[0]]
            is_multi_label = task.get("multi_label", False)
            scores |= Scorer.score_cats(
                examples,
                "cats",
                labels=task["labels"],
                multi_label=is_multi_label,
                threshold=0.5 if is_multi_label else 0.0,
            )
        return scores

    def to_disk(self, path: Path, *, exclude: tuple = ()) -> None:
        """
        Saves the checkpoint into the pipeline's folder, so that the folder is self-contained: an adapter merged into
        its checkpoint, and an export as a copy of its folder.

        Raises:
            `ValueError`: if the folder of an export is not there any more.
        """
        folder, path = Path(self._model), Path(path)
        is_export = isinstance(self.pipeline, ExportedPipeline)
        if is_export and not folder.is_dir():
            raise ValueError(
                f"{folder}, the export that this pipeline runs on, is gone; it is saved as a copy of that."
            )
        if is_export and path.is_dir() and path.samefile(folder):
            return
        for file in GRAPH_FILES:  # of an export that was saved here before, which would be opened instead
            (path / file).unlink(missing_ok=True)
        if is_export:
            shutil.copytree(folder, path, dirs_exist_ok=True)
            return
        model = self.pipeline.model
        (merge_adapters(deepcopy(model)) if has_adapters(model) else model).save_pretrained(path)
        self.pipeline.tokenizer.save_pretrained(path)

    def from_disk(self, path: Path, *, exclude: tuple = ()) -> "MTSBertComponent":
        self._model, self._revision, self._pipeline = str(path), None, None
        return self


def _first_ones(spans: list[Span]) -> list[Span]:
    """Leaves out spans that overlap one before them in the list."""
    kept: list[Span] = []
    for span in spans:
        if not any(span.start < other.end and other.start < span.end for other in kept):
            kept.append(span)
    return kept
