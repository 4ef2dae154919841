"""Orders texts by how much their labels would teach: the most doubtful and the most different first."""

import numpy as np

from configuration_mtsbert import PAIR_TYPES, TOKEN_CLASSIFICATION


def doubt_of(tasks: dict[str, dict], answer: dict) -> float:
    """
    How unsure a model is about a text, from 0 to 1: the mean over its tasks on single texts.

    For a task with one label, that is 1 - (the highest score - the second); for one with several, how near the score
    nearest to 0.5 is to it; for entities, 1 - the lowest score of an entity, and 0 without entities.

    Args:
        tasks (`dict[str, dict]`): The tasks with their settings.
        answer (`dict`): The pipeline's answer, in which no score is left out.
    """
    doubts = []
    for task, settings in tasks.items():
        if settings["type"] in PAIR_TYPES:
            continue
        if settings["type"] == TOKEN_CLASSIFICATION:
            doubts.append(1.0 - min((entity["score"] for entity in answer[task]), default=1.0))
            continue
        scores = sorted(answer[task]["scores"].values(), reverse=True)
        if settings.get("multi_label"):
            doubts.append(1.0 - 2.0 * min(abs(score - 0.5) for score in scores))
        else:
            doubts.append(1.0 - (scores[0] - scores[1]))
    return float(np.mean(doubts))


def choose(doubts: np.ndarray, embeddings: np.ndarray, number: int) -> list[int]:
    """
    Chooses texts one after another: the one with the largest product of its doubt and its distance (1 - cosine) from
    the nearest that was chosen before.

    Args:
        doubts (`np.ndarray` of shape `(N,)`): See [`doubt_of`].
        embeddings (`np.ndarray` of shape `(N, H)`): Sentence embeddings of length 1.
        number (`int`): How many to choose; all if there are fewer.

    Returns:
        `list[int]`: Their indices, in the order in which they should be labelled.
    """
    distance = np.ones(len(doubts))
    left = np.ones(len(doubts), dtype=bool)
    chosen: list[int] = []
    for _ in range(min(number, len(doubts))):
        worth = np.where(left, (doubts + 1e-6) * (distance + 1e-6), -1.0)  # never all the same
        best = int(worth.argmax())
        chosen.append(best)
        left[best] = False
        distance = np.minimum(distance, 1.0 - embeddings @ embeddings[best])
    return chosen
