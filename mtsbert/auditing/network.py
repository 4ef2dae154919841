"""Classifies tokens with a small neural network."""

import numpy as np

from mtsbert.auditing.encoder import Tokens


NONE, UNKNOWN = 0, -1  # tags of tokens: no entity, a span without a label
# A network passes 8 times over its tokens; up to 100 times over fewer than 2,500, so that it sees 20,000 in all, and
# less often over more than 200,000, so that it sees 1.6 million.
FEWEST_PASSES, MOST_PASSES, FEWEST_SEEN, MOST_SEEN = 8, 100, 20_000, 1_600_000
TOKENS_PER_CALL = 20_000


class TokenClassifier:
    """
    A neural network with one hidden layer on the features of tokens, which are standardized.

    Args:
        features (`np.ndarray`): `(T, F)`: those of all tokens, also of those that it will be asked about.
        num_types (`int`): The number of entity types.
        seed (`int`): The seed of its weights, and of the order in which it sees tokens.
    """

    def __init__(self, features: np.ndarray, num_types: int, *, seed: int):
        self._features, self._tags, self._seed, self._network = features, np.arange(1 + num_types), seed, None
        parts = _parts(np.arange(len(features)))
        mean = sum(features[some].sum(axis=0, dtype=np.float64) for some in parts) / len(features)
        variance = sum(((features[some] - mean) ** 2).sum(axis=0) for some in parts) / len(features)
        self._mean = mean.astype(np.float32)
        self._sd = np.where(variance > 0, np.sqrt(variance), 1.0).astype(np.float32)

    def learn(self, numbers: np.ndarray, tags: np.ndarray) -> None:
        """
        Starts anew and learns from some tokens, but for those that are `UNKNOWN`.

        Args:
            numbers (`np.ndarray`): Which tokens.
            tags (`np.ndarray`): `(T,)`: the tags of all tokens.

        Raises:
            `ValueError`: if all of them are unknown.
        """
        from sklearn.neural_network import MLPClassifier

        numbers = numbers[tags[numbers] != UNKNOWN]
        if not len(numbers):
            raise ValueError("There is nothing to learn from: all text outside a fold is in spans without a label.")
        self._network, random = MLPClassifier((128,), random_state=self._seed), np.random.default_rng(self._seed)
        num_passes = min(max(FEWEST_PASSES, FEWEST_SEEN // len(numbers)), MOST_PASSES)
        for _ in range(min(num_passes, max(1, MOST_SEEN // len(numbers)))):
            for some in _parts(random.permutation(numbers)):
                self._network.partial_fit(self._scaled(self._features[some]), tags[some], classes=self._tags)

    def probabilities(self, features: np.ndarray, numbers: np.ndarray | None = None) -> np.ndarray:
        """Returns the probabilities of all tags `(N, 1 + num_types)` for the tokens `numbers`, by default for all."""
        numbers = np.arange(len(features)) if numbers is None else numbers
        return np.concatenate(
            [self._network.predict_proba(self._scaled(features[some])) for some in _parts(numbers)], dtype=np.float32
        )

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        return (features - self._mean) / self._sd


def _parts(numbers: np.ndarray) -> list[np.ndarray]:
    return np.array_split(numbers, -(-len(numbers) // TOKENS_PER_CALL))


def mean_of_words(probabilities: np.ndarray, tokens: Tokens) -> np.ndarray:
    """Gives all tokens of a word the mean of their probabilities, `(T, 1 + num_types)`."""
    first = np.flatnonzero(np.diff(tokens.words, prepend=-1))
    lengths = np.diff(first, append=len(tokens.words))
    return np.repeat(np.add.reduceat(probabilities, first) / lengths[:, None], lengths, axis=0)
