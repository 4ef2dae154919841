"""
Judges the entities of texts, by classifiers on the states of their tokens.

Neighbouring tokens with the same type form a place: the words of an entity, or what lies between two. A text is as
suspicious as its most suspicious place.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

from configuration_mtsbert import TOKEN_CLASSIFICATION
from mtsbert.auditing.encoder import Tokens
from mtsbert.auditing.network import NONE, UNKNOWN, TokenClassifier, mean_of_words
from mtsbert.auditing.rows import groups_of, read_rows
from mtsbert.data.sources import TEXT
from mtsbert.results.tables import markdown_table


ENTITIES = "entities"
NO_ENTITY = "no entity"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledEntities:
    """The rows that can be audited."""

    rows: np.ndarray
    """`(N,)`: row numbers in the data, counted from 0."""
    texts: list[str]
    entities: list[list[dict]]
    """The spans of each text. Of a span without a label, it is not known what is there."""
    types: list[str]
    """The entity types, sorted."""

    def tags(self, tokens: Tokens) -> np.ndarray:
        """`(T,)`: 1 + the number of its type for each token of an entity, else `NONE` or `UNKNOWN`."""
        tags = np.full(len(tokens.text), NONE)
        for place, spans in zip(tokens.of_texts(len(self.texts)), self.entities, strict=True):
            starts, ends = tokens.spans[place].T
            for span in spans:
                known = span["label"] is not None
                inside = (starts < span["end"]) & (ends > span["start"])
                tags[place][inside] = 1 + self.types.index(span["label"]) if known else UNKNOWN
        return tags


def read_entities(
    path: Path | str, text_column: str, entities_column: str, *, num_folds: int, tag_scheme: str = "bio"
) -> LabelledEntities:
    """
    Reads the rows to audit. Rows whose entities are not known are left out with a warning, as are entities whose type
    is in fewer distinct texts than there are folds: a span without a label takes their place.

    Args:
        path (`Path` or `str`): A file, a prepared folder or a Hub id. Of the latter two, the training split is read.
        text_column (`str`): The column with the texts (or lists of words).
        entities_column (`str`): The column with the spans (or lists of tags).
        num_folds (`int`): The number of folds for cross-validation.
        tag_scheme (`str`, *optional*, defaults to `"bio"`): That of the tags.

    Raises:
        `ValueError`: if the data cannot be read, has no entities, or has fewer distinct texts than there are folds.
    """
    columns = {text_column: TEXT, entities_column: ENTITIES}
    examples = read_rows(path, columns, {ENTITIES: {"type": TOKEN_CLASSIFICATION}}, tag_scheme=tag_scheme)
    rows = [row for row, example in enumerate(examples) if example[ENTITIES] is not None]
    texts, entities = ([examples[row][column] for row in rows] for column in (TEXT, ENTITIES))
    if without := len(examples) - len(rows):
        logger.warning(f"{without:,} rows of {path} have no entity labels and are left out.")
    if (distinct := len(set(texts))) < num_folds:
        raise ValueError(f"{path} has {distinct} distinct texts with entity labels; {num_folds} folds need as many.")
    pairs = ((text, span["label"]) for text, spans in zip(texts, entities, strict=True) for span in spans)
    num_texts = Counter(label for _, label in dict.fromkeys(pairs) if label is not None)
    rare = {label: number for label, number in num_texts.items() if number < num_folds}
    types = sorted(set(num_texts) - set(rare))
    if not types:
        raise ValueError(
            f"{path} has no entity type in at least {num_folds} distinct texts of {entities_column!r} (all: {rare})."
        )
    if rare:
        logger.warning(f"Entities whose type is in fewer than {num_folds} texts are left out: {rare}.")
    known = [[span if span["label"] not in rare else span | {"label": None} for span in spans] for spans in entities]
    return LabelledEntities(np.array(rows), texts, known, types)


def judge(
    tokens: Tokens, tags: np.ndarray, texts: list[str], *, num_types: int, num_folds: int = 5, seed: int = 42
) -> np.ndarray:
    """
    Estimates how likely each type is for each token, with classifiers that have not seen its text.

    Args:
        tokens ([`Tokens`]): The tokens.
        tags (`np.ndarray`): `(T,)`, see [`LabelledEntities.tags`].
        texts (`list[str]`): The texts. Rows with the same text are in the same fold.
        num_types (`int`): The number of entity types.
        num_folds (`int`, *optional*, defaults to 5): The number of folds for cross-validation.
        seed (`int`, *optional*, defaults to 42): The seed for the assignment to folds, and for the classifiers.

    Returns:
        `np.ndarray`: `(T, 1 + num_types)` probabilities, the first that of no entity; the same for all tokens of a
            word.

    Raises:
        `ValueError`: if fewer distinct texts than folds have tokens, or a fold leaves nothing to learn from.
    """
    from sklearn.model_selection import GroupKFold

    groups = groups_of(texts)[tokens.text]
    if (distinct := len(np.unique(groups))) < num_folds:
        raise ValueError(f"Of {distinct} distinct texts the tokenizer makes tokens; {num_folds} folds need as many.")
    folds = GroupKFold(num_folds, shuffle=True, random_state=seed).split(tags, groups=groups)
    classifier = TokenClassifier(tokens.features, num_types, seed=seed)
    probabilities = np.zeros((len(tags), 1 + num_types), dtype=np.float32)
    for learned, judged in tqdm(folds, total=num_folds, desc="Judging", unit="fold"):
        classifier.learn(learned, tags)
        probabilities[judged] = classifier.probabilities(tokens.features, judged)
    return mean_of_words(probabilities, tokens)


@dataclass(frozen=True)
class Doubt:
    """How likely the most suspicious place of a text is what it is said to be."""

    score: float
    """From 0 (surely wrong) to 1."""
    first: int
    """The first token of the place, of all tokens."""
    last: int
    """Its last token."""


def doubts_of(
    probabilities: np.ndarray, tags: np.ndarray, places: Sequence[slice], *, only: np.ndarray | None = None
) -> list[Doubt]:
    """
    Finds the most suspicious place of each text.

    The score of an entity is the geometric mean of two figures: the geometric mean of its tokens' probabilities to
    be of its type, and the lowest of them, which tells a wrong border. Between entities, it is the lowest. With the
    lowest alone, as cleanlab has it, fewer mistakes are found (`benchmarks/audit.py --entities_column`).

    Args:
        probabilities (`np.ndarray`): `(T, 1 + C)`, see [`judge`].
        tags (`np.ndarray`): `(T,)`, see [`LabelledEntities.tags`].
        places (`Sequence[slice]`): The tokens of each text.
        only (`np.ndarray`, *optional*): `(T,)`, of truth values: entities without such a token, and such tokens
            between entities, are not looked at. By default all are.

    Returns:
        `list[Doubt]`: One for each text; of a text without tokens, or of which nothing is known, the score is 1.
    """
    logs = np.log(np.clip(probabilities[np.arange(len(tags)), np.maximum(tags, 0)], 1e-9, 1.0))
    only = np.ones(len(tags), dtype=bool) if only is None else only
    doubts = []
    for place in places:
        worst = Doubt(1.0, place.start, place.start - 1)
        for tag, run in runs_of(tags, place.start, place.stop - 1):
            looked_at = [number for number in run if only[number]]
            if tag == UNKNOWN or not looked_at:
                continue
            lowest = min(run if tag else looked_at, key=logs.__getitem__)
            score = np.exp((logs[run].mean() + logs[lowest]) / 2 if tag else logs[lowest])
            one = Doubt(float(score), *((run[0], run[-1]) if tag else (lowest, lowest)))
            worst = min(worst, one, key=lambda doubt: doubt.score)
        doubts.append(worst)
    return doubts


def rank(doubts: Sequence[Doubt]) -> np.ndarray:
    """Returns the indices of the texts `(N,)`, the most suspicious first."""
    return np.argsort([doubt.score for doubt in doubts], kind="stable")


def suspects_of(
    given: LabelledEntities, tokens: Tokens, tags: np.ndarray, probabilities: np.ndarray, share: float
) -> list[dict]:
    """
    Lists the most suspicious `share` of all texts, or at least one, as far as something else is likelier in them, with
    the most suspicious place where it is.
    """
    places = tokens.of_texts(len(given.texts))
    likely = np.where(tags == UNKNOWN, UNKNOWN, probabilities.argmax(axis=1))
    doubts = doubts_of(probabilities, tags, places, only=likely != tags)
    suspects = []
    for number in rank(doubts)[: max(1, round(share * len(doubts)))]:
        doubt, text = doubts[number], given.texts[number]
        if doubt.last < doubt.first:
            continue
        first, last = _widened((tags, likely), doubt.first, doubt.last, places[number])
        start, end = int(tokens.spans[first, 0]), int(tokens.spans[last, 1])
        there = [span for span in given.entities[number] if span["start"] < end and start < span["end"]]
        there = [(text[span["start"] : span["end"]], span["label"]) for span in there if span["label"] is not None]
        found = [
            (text[tokens.spans[run[0], 0] : tokens.spans[run[-1], 1]], given.types[tag - 1])
            for tag, run in runs_of(likely, first, last)
            if tag > NONE
        ]
        suspects.append(
            {
                "row": int(given.rows[number]),
                "text": text,
                "start": start,
                "end": end,
                **_columns("entities", "types", there),
                **_columns("suggested", "suggested_types", found),
                "probability": float(f"{doubt.score:.2g}"),
            }
        )
    return suspects


def runs_of(tags: np.ndarray, first: int, last: int) -> list[tuple[int, list[int]]]:
    """Returns each tag with the neighbouring tokens that have it."""
    return [(int(tag), list(run)) for tag, run in groupby(range(first, last + 1), key=tags.__getitem__)]


def _widened(sides: Sequence[np.ndarray], first: int, last: int, place: slice) -> tuple[int, int]:
    """The ends of a stretch of tokens, moved outwards until no entity of either side goes beyond them."""
    before = None
    while before != (first, last):
        before = (first, last)
        for tags in sides:
            while first > place.start and tags[first] > NONE and tags[first - 1] == tags[first]:
                first -= 1
            while last + 1 < place.stop and tags[last] > NONE and tags[last + 1] == tags[last]:
                last += 1
    return first, last


def _columns(words: str, types: str, entities: list[tuple[str, str]]) -> dict[str, str]:
    return {words: "; ".join(word for word, _ in entities), types: "; ".join(label for _, label in entities)}


def describe_suspects(suspects: list[dict]) -> str:
    """Formats a Markdown table of what is suspected to be something else, and how often."""
    pairs = Counter((suspect["types"] or NO_ENTITY, suspect["suggested_types"] or NO_ENTITY) for suspect in suspects)
    cells = [
        [given, suggested if suggested != given else "other borders", f"{number:,}"]
        for (given, suggested), number in pairs.most_common()
    ]
    return markdown_table([["entities", "suggested", "rows"], *cells])
