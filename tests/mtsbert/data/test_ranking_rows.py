"""Tests which rows a ranking learns from, and their features and batches."""

import pytest
import torch
from datasets import Dataset

from mtsbert import MTLTrainingArguments, MTSBertModel, MTSBertTrainer, MultiTaskCollator, load_data
from mtsbert.data.report import describe_data


RANKING = {"fits": {"type": "pair_ranking"}}
BOTH = {**RANKING, "near": {"type": "pair_similarity", "score_range": [0, 5]}}
TRIPLETS = Dataset.from_list(
    [
        {"text": "Oslo wins", "text_pair": "Lima loses", "text_negative": "Shares rise"},
        {"text": "The final ends", "text_pair": "The race", "text_negative": ""},
        {"text": "Ada Perez sells", "text_pair": None, "text_negative": None},
    ]
)
SCORED = Dataset.from_list([{"text": "Oslo wins", "text_pair": "Lima loses", "near": 3.0}])


def test_pairs_without_labels_are_ranked_and_scored_pairs_are_not(tokenizer):
    data = load_data({"triplets": TRIPLETS, "scored": SCORED}, BOTH, tokenizer)
    assert data.examples["train"]["fits"][:] == [1, 1, None, None]
    assert data.examples["train"]["near"][:] == [None, None, None, 3.0]
    assert data.examples["train"]["text_negative"][:] == ["Shares rise", None, None, None]
    assert data.num_labelled("train", "fits") == 2
    features = data["train"]
    assert features["fits"][:] == [1, 1, -100, -100]
    assert [len(ids) > 0 for ids in features["negative_input_ids"]] == [True, False, False, False]
    assert features["length"][0] == sum(len(features[0][f"{name}input_ids"]) for name in ("", "pair_", "negative_"))


def test_a_dataset_with_labels_on_single_texts_is_ranked_as_well(tokenizer):
    rows = Dataset.from_list([{"text": "Oslo wins", "text_pair": "Lima loses", "topic": "Sports"}])
    tasks = {**RANKING, "topic": {"type": "sequence_classification", "labels": ["Sports", "World"]}}
    example = load_data(rows, tasks).examples["train"][0]
    assert (example["fits"], example["topic"]) == (1, "Sports")


def test_hard_negatives_are_further_rows_of_the_second_texts(tokenizer):
    features = load_data(TRIPLETS, RANKING, tokenizer)["train"]
    batch = MultiTaskCollator(tokenizer, RANKING)([features[row] for row in range(3)])
    assert batch["input_ids"].shape[0] == 3
    assert batch["pair_input_ids"].shape[0] == batch["pair_attention_mask"].shape[0] == 6
    assert batch["pair_attention_mask"].any(dim=1).tolist() == [True, True, False, True, False, False]
    assert torch.equal(batch["labels"]["fits"], torch.tensor([1, 1, -100]))


@pytest.mark.parametrize(
    ("rows", "tasks", "columns", "message"),
    [
        (TRIPLETS, {"near": BOTH["near"]}, None, r"No dataset feeds the tasks|Dataset 'data' feeds no task"),
        (TRIPLETS.select_columns("text"), RANKING, None, "Dataset 'data' feeds no task; its columns are"),
        (SCORED, BOTH, None, r"No dataset feeds the tasks \['fits'\], of which a ranking learns from a dataset with"),
        (TRIPLETS, RANKING, {"text": "text", "text_pair": "fits"}, "the ranking 'fits', which reads no labels"),
        (
            TRIPLETS, {"near": BOTH["near"]},
            {"text": "text", "text_pair": "text_pair", "text_negative": "text_negative"},
            "to 'text_negative', which only a task of type 'pair_ranking' reads",
        ),
        (
            TRIPLETS.add_column("near", [1.0, 2.0, 3.0]), BOTH,
            {"text": "text", "text_pair": "text_pair", "text_negative": "text_negative", "near": "near"},
            r"to 'text_negative', but feeds no ranking: .* \(it feeds \['near'\]\)",
        ),
        (
            Dataset.from_dict({"text": ["a", "a"], "text_pair": ["b", None], "text_negative": [None, "c"]}),
            RANKING, None, "Row 1 of dataset 'data', .*: column 'text_negative' has a text, but 'text_pair' is empty",
        ),
        (
            Dataset.from_list([{"text": "a", "text_pair": "b", "text_negative": "  "}]),
            RANKING, None, "column 'text_negative' has no text in it",
        ),
        (
            Dataset.from_list([{"text": "a", "text_pair": None, "text_negative": None}]).cast_column(
                "text_pair", TRIPLETS.features["text"]
            ),
            RANKING, None, "No training row has a label for task 'fits'",
        ),
        (TRIPLETS, {**RANKING, "more": {"type": "pair_ranking"}}, None, r"\['fits', 'more'\] are all of type"),
    ],
)  # fmt: skip
def test_rows_that_a_ranking_cannot_use_are_refused(rows, tasks, columns, message):
    with pytest.raises(ValueError, match=message):
        load_data(rows, tasks, columns=columns)


def test_a_second_ranking_beside_that_of_a_checkpoint_is_refused():
    with pytest.raises(ValueError, match=r"\['fits', 'more'\] are all of type 'pair_ranking'; a model may have one"):
        load_data(TRIPLETS, {"more": "pair_ranking"}, checkpoint_tasks=RANKING)


def test_the_report_counts_pairs_and_hard_negatives(tokenizer):
    told = describe_data(load_data(TRIPLETS, RANKING, tokenizer))
    assert "## train / fits (pair_ranking): 2 labelled rows" in told
    assert "Pairs: 2, of them 1 with a hard negative" in told
    assert "- 'Oslo wins' | 'Lima loses' → not 'Shares rise'" in told
    assert "- 'The final ends' | 'The race'\n" in told


def test_pairs_in_memory_are_learned_without_any_label(encoder_folder, tmp_path):
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=RANKING)
    arguments = MTLTrainingArguments(str(tmp_path / "run"), num_train_epochs=30, learning_rate=1e-3, disable_tqdm=True)
    trainer = MTSBertTrainer(model, arguments, train_dataset=TRIPLETS, eval_dataset=TRIPLETS)
    before = trainer.evaluate()["eval_fits_loss"]
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_fits_loss"] < before
    assert metrics["eval_fits_mrr"] == metrics["eval_composite"] == 1.0
