"""Makes labels wrong, to see how many are found."""

import numpy as np

from mtsbert.auditing.encoder import words_of
from mtsbert.auditing.entities import LabelledEntities


def plant_labels(
    labels: np.ndarray, num_labels: int, share: float, *, seed: int = 42
) -> tuple[np.ndarray, np.ndarray]:
    """
    Replaces a random share of the labels with wrong ones, drawn uniformly from the other labels.

    Args:
        labels (`np.ndarray`): `(N,)` label ids.
        num_labels (`int`): The number of different labels.
        share (`float`): The share of rows whose label is replaced, between 0 and 1.
        seed (`int`, *optional*, defaults to 42): The random seed.

    Returns:
        The new labels `(N,)`, and a boolean mask `(N,)` of those that were replaced.

    Raises:
        `ValueError`: if the share is less than half a row.
    """
    random = np.random.default_rng(seed)
    chosen = random.choice(len(labels), _number(share, len(labels)), replace=False)
    planted = np.zeros(len(labels), dtype=bool)
    planted[chosen] = True
    wrong = labels.copy()
    wrong[chosen] = (labels[chosen] + random.integers(1, num_labels, len(chosen))) % num_labels
    return wrong, planted


def _number(share: float, num_rows: int) -> int:
    number = round(share * num_rows)
    if not number:
        raise ValueError(f"{share} of {num_rows} rows is no row to make a mistake in.")
    return number


def plant_entities(given: LabelledEntities, share: float, *, seed: int = 42) -> tuple[LabelledEntities, np.ndarray]:
    """
    Makes a mistake in a random share of the texts, in those with an entity: one is taken away, gets another type, or
    a border one word off, or a word that is in none becomes one. Each kind has its turn; where it is impossible, an
    entity is taken away.

    Args:
        given ([`LabelledEntities`]): The rows.
        share (`float`): The share of all rows that get a mistake, between 0 and 1.
        seed (`int`, *optional*, defaults to 42): The random seed.

    Returns:
        The rows with mistakes, and a boolean mask `(N,)` of those that have one.

    Raises:
        `ValueError`: if the share is less than half a row, or fewer rows than that have an entity.
    """
    random = np.random.default_rng(seed)
    able = [number for number, spans in enumerate(given.entities) if any(span["label"] for span in spans)]
    wanted = _number(share, len(given.texts))
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


def _with_another_type(
    text: str, spans: list[dict], types: list[str], random: np.random.Generator
) -> list[dict] | None:
    chosen = _any_of(spans, random)
    others = [name for name in types if name != chosen["label"]]
    if not others:
        return None
    return [span | {"label": str(random.choice(others))} if span is chosen else span for span in spans]


def _with_another_border(
    text: str, spans: list[dict], types: list[str], random: np.random.Generator
) -> list[dict] | None:
    chosen = _any_of(spans, random)
    free, words = _free_words(text, spans), words_of(text)
    inside = [word for word in words if word[0] < chosen["end"] and chosen["start"] < word[1]]
    following = [word for word in words if word[0] >= chosen["end"]][:1]
    if len(inside) > 1:
        changed = chosen | {"end": inside[-2][1]}
    elif following and following[0] in free:
        changed = chosen | {"end": following[0][1]}
    else:
        return None
    return [changed if span is chosen else span for span in spans]


def _with_another_entity(
    text: str, spans: list[dict], types: list[str], random: np.random.Generator
) -> list[dict] | None:
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
    words = words_of(text)
    return [
        (start, end) for start, end in words if not any(start < span["end"] and span["start"] < end for span in spans)
    ]
