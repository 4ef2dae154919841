"""Tests the random parts of training texts whose embeddings are held as well."""

import pytest

from mtsbert.data.features import build_features, num_labelled_rows
from mtsbert.training.text_parts import MIN_PART, PARTS, borders, with_parts
from tests.mtsbert.rows import examples_of


TASKS = {
    "topic": {"type": "sequence_classification", "labels": ["a", "b"]},
    "marks": {"type": "sequence_classification", "labels": ["a", "b"], "multi_label": True},
    "ner": {"type": "token_classification", "labels": ["O", "B-GPE", "I-GPE"]},
    "score": {"type": "pair_similarity", "score_range": [0, 5]},
}
ROWS = [
    {"text": "Oslo wins the final of the year", "text_pair": "Oslo", "topic": "a", "marks": ["a"], "ner": [], "score": 3},  # noqa: E501
    {"text": "no", "topic": "b", "marks": [], "ner": [], "score": None},
    {"text": "shares fell in Lima when markets closed", "topic": "b", "marks": None, "ner": None, "score": None},
]  # fmt: skip


@pytest.fixture
def whole(tokenizer):
    return build_features(examples_of(ROWS, TASKS), TASKS, tokenizer, max_length=32, split="train")[0]


def test_parts_are_stretches_of_their_texts_without_labels(whole, tokenizer):
    rows = with_parts(whole, TASKS, tokenizer, share=1.0, seed=1)
    assert rows["input_ids"][:3] == whole["input_ids"][:]
    assert rows["topic"][:3] == whole["topic"][:]
    assert rows.features["dataset"].names == ["train", PARTS]
    assert rows["dataset"][:] == [0, 0, 0, 1, 1]
    assert [num_labelled_rows(rows, task) for task in TASKS] == [num_labelled_rows(whole, task) for task in TASKS]
    for part, row in ((rows[3], whole[0]), (rows[4], whole[2])):
        first, *middle, last = part["input_ids"]
        assert (first, last) == (row["input_ids"][0], row["input_ids"][-1])
        assert MIN_PART <= len(middle) < len(row["input_ids"]) - 2
        text = " ".join(map(str, row["input_ids"][1:-1]))
        assert " ".join(map(str, middle)) in text
        assert part["length"] == len(part["input_ids"]) == len(part["ner"])
        assert part["pair_input_ids"] == []
        assert part["row"] == row["row"]


def test_the_seed_and_the_share_decide_about_parts(whole, tokenizer):
    def parts(**how) -> list:
        return with_parts(whole, TASKS, tokenizer, **how)["input_ids"][3:]

    assert parts(share=1.0, seed=1) == parts(share=1.0, seed=1)
    assert any(parts(share=1.0, seed=1) != parts(share=1.0, seed=seed) for seed in range(2, 6))
    assert parts(share=0.0, seed=1) == []
    assert {len(parts(share=0.5, seed=seed)) for seed in range(20)} == {0, 1, 2}


def test_a_dataset_without_training_rows_stays_behind_the_parts(tokenizer):
    examples = examples_of(ROWS, TASKS)
    names = ["news", "only for validation"]
    features, _ = build_features(examples, TASKS, tokenizer, max_length=32, split="train", dataset_names=names)
    rows = with_parts(features, TASKS, tokenizer, share=1.0, seed=1)
    assert rows.features["dataset"].names == ["news", PARTS, "only for validation"]
    assert max(rows["dataset"]) == 1


@pytest.mark.parametrize(
    ("ids", "special", "expected"),
    [
        ([1, 7, 8, 2], [1, 2], (1, 3)),
        ([7, 8, 2], [2], (0, 2)),
        ([1, 7, 8], [1], (1, 3)),
        ([7, 8], [], (0, 2)),
        ([1, 3, 7, 2, 2], [1, 3, 2, 2], (2, 3)),
    ],
)
def test_special_tokens_are_told_from_the_text(ids, special, expected):
    assert borders(ids, special) == expected


def test_a_run_holds_parts_as_well(trainer_of):
    trainer = trainer_of(embedding_distillation=2.0, embedding_distillation_parts=1.0)
    assert trainer.train_dataset.features["dataset"].names[1] == PARTS
    number = len(trainer.train_dataset)
    assert 8 < number <= 16
    trainer.train()
    assert trainer.state.max_steps == -(-8 // 8) + -(-(number - 8) // 8)
    assert trainer.state.log_history[0]["embedding_loss"] >= 0.0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"embedding_distillation_parts": 0.5}, "`embedding_distillation_parts` needs `embedding_distillation`"),
        ({"embedding_distillation_parts": 1.5, "embedding_distillation": 2.0}, r"1.5; it must lie in \[0, 1\]"),
    ],
)
def test_wrong_shares_are_refused(trainer_of, flags, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(**flags)
