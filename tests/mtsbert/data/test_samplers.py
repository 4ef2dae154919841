"""Tests which rows are sampled, how often and in what order."""

import math
from collections import Counter

import pytest

from mtsbert.data.samplers import DatasetSampler, dataset_weights, padding_share


SIZES = [640, 128, 32]  # rows of three datasets; 40, 8 and 2 batches of 16
DATASET_IDS = [dataset for dataset, size in enumerate(SIZES) for _ in range(size)]


def sampler(**options) -> DatasetSampler:
    return DatasetSampler(DATASET_IDS, **{"batch_size": 16, "seed": 1, **options})


def batches(rows: DatasetSampler) -> list[list[int]]:
    order = list(rows)
    assert len(order) == len(rows)
    return [order[first : first + 16] for first in range(0, len(order), 16)]


def datasets_of(batch: list[int]) -> set[int]:
    return {DATASET_IDS[row] for row in batch}


@pytest.mark.parametrize("sampling", ["proportional", "round_robin", "weights"])
def test_a_batch_is_of_one_dataset(sampling):
    for batch in batches(sampler(sampling=sampling, weights=[1, 1, 1])):
        assert len(datasets_of(batch)) == 1


def test_proportional_sampling_sees_every_row_once():
    order = list(sampler())
    assert sorted(order) == list(range(sum(SIZES)))
    assert order != sorted(order)


def test_a_dataset_that_does_not_fill_its_last_batch_begins_again():
    rows = DatasetSampler([0] * 20 + [1] * 5, batch_size=8, seed=0)
    counts = Counter(rows)
    assert len(list(rows)) == len(rows) == 32
    assert set(counts) == set(range(25))
    assert sum(counts[row] for row in range(20)) == 24


def test_a_single_dataset_is_seen_once_with_a_smaller_last_batch():
    rows = DatasetSampler([0] * 21, batch_size=8, seed=0, lengths=list(range(21)))
    assert len(rows) == 21
    assert sorted(rows) == list(range(21))


def test_round_robin_takes_turns():
    found = [datasets_of(batch).pop() for batch in batches(sampler(sampling="round_robin"))]
    assert found[:6] == [0, 1, 2, 0, 1, 2]
    assert len(found) == 50


@pytest.mark.parametrize(("sampling", "weights"), [("round_robin", None), ("weights", [4, 1, 1, 9])])
def test_datasets_whose_rows_were_all_filtered_out_are_passed_over(sampling, weights):
    rows = DatasetSampler([1] * 8 + [2] * 8, batch_size=4, seed=0, sampling=sampling, weights=weights)
    order = list(rows)
    assert len(order) == 16
    assert {row // 8 for row in order} == {0, 1}


def test_weights_that_leave_no_row_are_refused():
    rows = DatasetSampler([1, 1, 2], batch_size=1, seed=0, sampling="weights", weights=[1, 0, 0])
    with pytest.raises(ValueError, match="`sampling_weights` are 0 for every dataset that has rows"):
        list(rows)


@pytest.mark.parametrize(
    ("sampling", "weights"),
    [("temperature", dataset_weights(SIZES, 2.0)), ("weights", [1, 2, 5]), ("weights", [0, 1, 1])],
)
def test_drawn_frequencies_are_within_three_sigma_of_their_targets(sampling, weights):
    rows = sampler(sampling=sampling, weights=weights)
    counts: Counter = Counter()
    for epoch in range(40):
        rows.set_epoch(epoch)
        counts.update(datasets_of(batch).pop() for batch in batches(rows))
    total = sum(counts.values())
    assert total == 40 * 50
    for dataset, weight in enumerate(weights):
        share = weight / sum(weights)
        assert abs(counts[dataset] - total * share) <= 3 * math.sqrt(total * share * (1 - share))


def test_weights_of_a_temperature():
    assert dataset_weights([900, 100], 1.0) == pytest.approx([0.9, 0.1])
    assert dataset_weights([900, 100], 2.0) == pytest.approx([0.75, 0.25])
    assert dataset_weights([900, 100], math.inf) == pytest.approx([0.5, 0.5])


def test_the_order_is_that_of_seed_and_epoch():
    one, same, other = (list(sampler(seed=seed)) for seed in (1, 1, 2))
    assert one == same != other
    later = sampler()
    later.set_epoch(1)
    assert list(later) != one


def test_texts_of_like_length_stand_together():
    lengths = [(row * 37) % 97 for row in range(sum(SIZES))]

    def padding(rows: DatasetSampler) -> int:
        return sum(
            max(lengths[row] for row in batch) * len(batch) - sum(lengths[row] for row in batch)
            for batch in batches(rows)
        )

    assert padding(sampler(lengths=lengths)) < 0.3 * padding(sampler())


def test_the_share_of_padding_by_hand():
    assert padding_share([2, 0, 1], [4, 6, 5], 2) == pytest.approx(1 - (5 + 4 + 6) / (2 * 5 + 6))
    assert padding_share(range(4), [7] * 4, 3) == 0.0
