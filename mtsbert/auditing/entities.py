"""
Judges the entities of texts, by classifiers on the states of their tokens.

Neighbouring tokens with the same type form a place: the words of an entity, or what lies between two. A text is as
suspicious as its most suspicious place.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

from configuration_mtsbert import TOKEN_CLASSIFICATION
from mtsbert.auditing.encoder import WORD, Tokens
from mtsbert.data.examples import read_examples
from mtsbert.data.sources import TEXT, open_datasets
from mtsbert.results.tables import markdown_table


TRAIN, ENTITIES = "train", "entities"
NONE, UNKNOWN = 0, -1  # tags of tokens: no entity, a span without a label
NUM_PASSES = 8  # that a network makes over its tokens, unless it sees fewer or more than these in all of them:
FEWEST_TOKENS, MOST_TOKENS = 20_000, 1_600_000
TOKENS_PER_CALL = 20_000
NO_ENTITY = "no entity"


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


def read_entities(path: Path | str, text_column: str, entities_column: str, *, num_folds: int) -> LabelledEntities:
    """
    Reads the rows to audit.

    Args:
        path (`Path` or `str`): A file, a prepared folder or a Hub id. Of the latter two, the training split is read.
        text_column (`str`): The column with the texts (or lists of words).
        entities_column (`str`): The column with the spans (or lists of tags).
        num_folds (`int`): The number of folds for cross-validation.

    Raises:
        `ValueError`: if the data cannot be read, has no entities, or has fewer distinct texts than there are folds.
    """
    columns = {text_column: TEXT, entities_column: ENTITIES}
    tasks = {ENTITIES: {"type": TOKEN_CLASSIFICATION}}
    (source,) = open_datasets({str(path): {"path": str(path), "splits": {TRAIN: TRAIN}, "columns": columns}}, tasks)
    examples = list(read_examples(source, TRAIN, tasks))
    rows = [row for row, example in enumerate(examples) if example[ENTITIES] is not None and example[TEXT].strip()]
    texts, entities = ([examples[row][column] for row in rows] for column in (TEXT, ENTITIES))
    types = sorted({span["label"] for spans in entities for span in spans} - {None})
    if not types:
        raise ValueError(f"No row of {path} has an entity in {entities_column!r}.")
    if (distinct := len(set(texts))) < num_folds:
        raise ValueError(f"{path} has {distinct} distinct texts with entities marked; {num_folds} folds need more.")
    return LabelledEntities(np.array(rows), texts, entities, types)


def judge(
    tokens: Tokens, tags: np.ndarray, texts: list[str], *, num_types: int, num_folds: int = 5, seed: int = 42
) -> np.ndarray:
    """
    Estimates how likely each type is for each token, with a neural network of one hidden layer that has seen neither
    its text nor another one with the same words. Nothing is learned from tokens that are `UNKNOWN`.

    Args:
        tokens ([`Tokens`]): The tokens.
        tags (`np.ndarray`): `(T,)`, see [`LabelledEntities.tags`].
        texts (`list[str]`): The texts, which keep rows with the same text in the same fold.
        num_types (`int`): The number of entity types.
        num_folds (`int`, *optional*, defaults to 5): The number of folds for cross-validation.
        seed (`int`, *optional*, defaults to 42): The seed for the assignment to folds, and for the networks.

    Returns:
        `np.ndarray`: `(T, 1 + num_types)` probabilities, the first that of no entity; the same for all tokens of a
            word.
    """
    from sklearn.model_selection import GroupKFold

    _, groups = np.unique(texts, return_inverse=True)
    folds = GroupKFold(num_folds, shuffle=True, random_state=seed).split(tags, groups=groups[tokens.text])
    network = Network(tokens.features, num_types, seed=seed)
    probabilities = np.zeros((len(tags), 1 + num_types), dtype=np.float32)
    for learned, judged in tqdm(folds, total=num_folds, desc="Judging", unit="fold"):
        network.learn(learned[tags[learned] != UNKNOWN], tags)
        probabilities[judged] = network.probabilities(tokens.features, judged)
    return mean_of_words(probabilities, tokens)


class Network:
    """
    A classifier of tokens, with one hidden layer.

    Args:
        features (`np.ndarray`): `(T, F)`: those of all tokens that it may learn from.
        num_types (`int`): The number of entity types.
        seed (`int`): Its seed.
    """

    def __init__(self, features: np.ndarray, num_types: int, *, seed: int):
        self._features, self._tags, self._seed = features, np.arange(1 + num_types), seed
        parts = _parts(np.arange(len(features)))
        self._mean = sum(features[some].sum(axis=0, dtype=np.float64) for some in parts) / len(features)
        variance = sum(((features[some] - self._mean) ** 2).sum(axis=0) for some in parts) / len(features)
        self._sd = np.where(variance > 0, np.sqrt(variance), 1.0)

    def learn(self, numbers: np.ndarray, tags: np.ndarray) -> None:
        """Forgets all, and learns the tags of the tokens with these numbers."""
        from sklearn.neural_network import MLPClassifier

        self._network, random = MLPClassifier((128,), random_state=self._seed), np.random.default_rng(self._seed)
        num_passes = max(NUM_PASSES, FEWEST_TOKENS // len(numbers))
        for _ in range(min(num_passes, max(1, MOST_TOKENS // len(numbers)))):
            for some in _parts(random.permutation(numbers)):
                self._network.partial_fit(self._scaled(self._features[some]), tags[some], classes=self._tags)

    def probabilities(self, features: np.ndarray, numbers: np.ndarray | None = None) -> np.ndarray:
        """Of each tag for these tokens, `(T, 1 + num_types)`, by default for all."""
        numbers = np.arange(len(features)) if numbers is None else numbers
        return np.concatenate(
            [self._network.predict_proba(self._scaled(features[some])) for some in _parts(numbers)], dtype=np.float32
        )

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        return ((features - self._mean) / self._sd).astype(np.float32)


def _parts(numbers: np.ndarray) -> list[np.ndarray]:
    return np.array_split(numbers, -(-len(numbers) // TOKENS_PER_CALL))


def mean_of_words(probabilities: np.ndarray, tokens: Tokens) -> np.ndarray:
    """Gives the tokens of a word the mean of their probabilities, `(T, 1 + num_types)`."""
    first = np.flatnonzero(np.diff(tokens.words, prepend=-1))
    lengths = np.diff(first, append=len(tokens.words))
    return np.repeat(np.add.reduceat(probabilities, first) / lengths[:, None], lengths, axis=0)


@dataclass(frozen=True)
class Doubt:
    """How likely the most suspicious place of a text is what it is said to be."""

    score: float
    """From 0 (surely wrong) to 1."""
    first: int
    """The first token of the place, of all tokens."""
    last: int
    """Its last token."""


def doubts_of(probabilities: np.ndarray, tags: np.ndarray, places: Sequence[slice]) -> list[Doubt]:
    """
    Finds the most suspicious place of each text.

    The score of an entity is the geometric mean of two figures: the geometric mean of its tokens' probabilities to
    be of its type, and the lowest of them, which tells a wrong border. Between entities, it is the lowest. With the
    lowest alone, as cleanlab has it, fewer mistakes are found (`benchmarks/audit.py --entities_column`).

    Args:
        probabilities (`np.ndarray`): `(T, 1 + C)`, see [`judge`].
        tags (`np.ndarray`): `(T,)`, see [`LabelledEntities.tags`].
        places (`Sequence[slice]`): The tokens of each text.

    Returns:
        `list[Doubt]`: One for each text; of a text without tokens, or of which nothing is known, the score is 1.
    """
    logs = np.log(np.clip(probabilities[np.arange(len(tags)), np.maximum(tags, 0)], 1e-9, 1.0))
    doubts = []
    for place in places:
        worst = Doubt(1.0, place.start, place.start - 1)
        for tag, numbers in runs_of(tags, place.start, place.stop - 1):
            if tag == UNKNOWN:
                continue
            lowest = numbers[int(logs[numbers].argmin())]
            if tag == NONE:
                one = Doubt(float(np.exp(logs[lowest])), lowest, lowest)
            else:
                score = float(np.exp((logs[numbers].mean() + logs[lowest]) / 2))
                one = Doubt(score, numbers[0], numbers[-1])
            worst = min(worst, one, key=lambda doubt: doubt.score)
        doubts.append(worst)
    return doubts


def rank(doubts: Sequence[Doubt]) -> np.ndarray:
    """Returns the indices of the texts `(N,)`, the most suspicious first."""
    return np.argsort([doubt.score for doubt in doubts], kind="stable")


def suspects_of(
    given: LabelledEntities, tokens: Tokens, tags: np.ndarray, probabilities: np.ndarray, share: float
) -> list[dict]:
    """Lists those among the most suspicious `share` of all texts where something else is more likely."""
    places = tokens.of_texts(len(given.texts))
    doubts = doubts_of(probabilities, tags, places)
    likely = np.where(tags == UNKNOWN, UNKNOWN, probabilities.argmax(axis=1))
    suspects = []
    for number in rank(doubts)[: round(share * len(doubts))]:
        doubt, place = doubts[number], places[number]
        first, last = doubt.first, doubt.last
        if (likely[first : last + 1] == tags[first : last + 1]).all():
            continue
        for _ in range(2):  # whole entities on both sides, where they overlap
            for side in (tags, likely):
                first, last = _widened(side, first, last, place)
        start, end = int(tokens.spans[first, 0]), int(tokens.spans[last, 1])
        text = given.texts[number]
        there = [span for span in given.entities[number] if span["start"] < end and start < span["end"]]
        suspects.append(
            {
                "row": int(given.rows[number]),
                "text": text,
                "start": start,
                "end": end,
                "entities": "; ".join(_named(text, span["start"], span["end"], span["label"]) for span in there),
                "suggested": "; ".join(
                    _named(text, tokens.spans[run[0], 0], tokens.spans[run[-1], 1], given.types[tag - 1])
                    for tag, run in runs_of(likely, first, last)
                    if tag > NONE
                ),
                "probability": float(f"{doubt.score:.2g}"),
            }
        )
    return suspects


def runs_of(tags: np.ndarray, first: int, last: int) -> list[tuple[int, list[int]]]:
    """Each tag and the neighbouring tokens that have it."""
    return [(int(tag), list(run)) for tag, run in groupby(range(first, last + 1), key=tags.__getitem__)]


def _widened(tags: np.ndarray, first: int, last: int, place: slice) -> tuple[int, int]:
    """The ends of a stretch of tokens, moved outwards to where entities end that go beyond them."""
    while first > place.start and tags[first] > NONE and tags[first - 1] == tags[first]:
        first -= 1
    while last + 1 < place.stop and tags[last] > NONE and tags[last + 1] == tags[last]:
        last += 1
    return first, last


def _named(text: str, start: int, end: int, label: str) -> str:
    return f"{text[start:end]} ({label})"


def describe_suspects(suspects: list[dict]) -> str:
    """Formats a Markdown table of what is suspected to be something else, and how often."""

    def kinds(named: str) -> str:
        return ", ".join(part.rpartition("(")[2].rstrip(")") for part in named.split("; ")) if named else NO_ENTITY

    pairs = Counter((kinds(suspect["entities"]), kinds(suspect["suggested"])) for suspect in suspects)
    cells = [
        [given, suggested if suggested != given else "other borders", f"{number:,}"]
        for (given, suggested), number in pairs.most_common()
    ]
    return markdown_table([["entities", "suggested", "rows"], *cells])


def plant(given: LabelledEntities, share: float, *, seed: int = 42) -> tuple[LabelledEntities, np.ndarray]:
    """
    Makes a mistake in a random share of the texts, in those with an entity: one is taken away, gets another type, or
    a border one word off, or a word that is in none becomes one; each kind equally often.

    Args:
        given ([`LabelledEntities`]): The rows.
        share (`float`): The share of all rows that get a mistake, between 0 and 1.
        seed (`int`, *optional*, defaults to 42): The random seed.

    Returns:
        The rows with mistakes, and a boolean mask `(N,)` of those that have one.

    Raises:
        `ValueError`: if fewer rows than that have an entity.
    """
    random = np.random.default_rng(seed)
    able = [number for number, spans in enumerate(given.entities) if any(span["label"] for span in spans)]
    wanted = round(share * len(given.texts))
    if wanted > len(able):
        raise ValueError(f"{wanted} rows should get a wrong entity, and {len(able)} have one.")
    entities, planted = list(given.entities), np.zeros(len(given.texts), dtype=bool)
    kinds = (_without, _with_another_type, _with_another_border, _with_another_entity)
    for place, number in enumerate(random.choice(able, wanted, replace=False)):
        text, spans = given.texts[number], entities[number]
        changed = kinds[place % len(kinds)](text, spans, given.types, random)
        entities[number] = _without(text, spans, given.types, random) if changed is None else changed
        planted[number] = True
    return LabelledEntities(given.rows, given.texts, entities, given.types), planted


def _without(text: str, spans: list[dict], types: list[str], random: np.random.Generator) -> list[dict]:
    chosen = _any_of(spans, random)
    return [span for span in spans if span is not chosen]


def _with_another_type(text: str, spans: list[dict], types: list[str], random: np.random.Generator):
    chosen = _any_of(spans, random)
    others = [name for name in types if name != chosen["label"]]
    if not others:
        return None
    return [span | {"label": str(random.choice(others))} if span is chosen else span for span in spans]


def _with_another_border(text: str, spans: list[dict], types: list[str], random: np.random.Generator):
    chosen = _any_of(spans, random)
    free, words = _free_words(text, spans), [match.span() for match in WORD.finditer(text)]
    inside = [word for word in words if word[0] < chosen["end"] and chosen["start"] < word[1]]
    following = [word for word in words if word[0] >= chosen["end"]][:1]
    if len(inside) > 1:
        changed = chosen | {"end": inside[-2][1]}
    elif following and following[0] in free:
        changed = chosen | {"end": following[0][1]}
    else:
        return None
    return [changed if span is chosen else span for span in spans]


def _with_another_entity(text: str, spans: list[dict], types: list[str], random: np.random.Generator):
    free = _free_words(text, spans)
    if not free:
        return None
    start, end = free[random.integers(len(free))]
    added = {"start": start, "end": end, "label": str(random.choice(types))}
    return sorted([*spans, added], key=lambda span: span["start"])


def _any_of(spans: list[dict], random: np.random.Generator) -> dict:
    labelled = [span for span in spans if span["label"] is not None]
    return labelled[random.integers(len(labelled))]


def _free_words(text: str, spans: list[dict]) -> list[tuple[int, int]]:
    """Start and end of the words outside all spans."""
    words = [match.span() for match in WORD.finditer(text)]
    return [
        (start, end) for start, end in words if not any(start < span["end"] and span["start"] < end for span in spans)
    ]
