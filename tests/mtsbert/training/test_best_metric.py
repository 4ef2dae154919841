"""Tests which metrics can choose the best model: those that an evaluation of the run reports, and no others."""

import pytest
from datasets import Dataset, concatenate_datasets

from modeling_mtsbert import MTSBertModel


BEST = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
FROZEN = {"freeze_encoder": True, "feature_cache": False}


@pytest.mark.parametrize("name", ["f1", "accuracy", "eval_f1", "topic_f1", "ner_accuracy"])
def test_a_metric_that_no_evaluation_reports_is_refused_before_training(trainer_of, features, name):
    trainer = trainer_of(eval_dataset=features, metric_for_best_model=name, **BEST)
    with pytest.raises(
        ValueError, match=f"`metric_for_best_model` is '{name}', which no evaluation .*'topic_accuracy'"
    ):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("embedding_cosine", FROZEN),
        ("eval_embedding_overlap_at_10", FROZEN),
        ("eval_embedding_overlap_at_10", {}),  # eight rows have no ten neighbours
        ("embedding_cosine", {"prediction_loss_only": True}),
        ("composite", {"prediction_loss_only": True}),
    ],
)
def test_a_metric_that_this_run_does_not_report_is_refused_before_training(trainer_of, features, name, flags):
    trainer = trainer_of(eval_dataset=features, metric_for_best_model=name, **BEST | flags)
    with pytest.raises(ValueError, match=f"`metric_for_best_model` is '{name}', which no evaluation .*'loss'"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_only_a_similarity_is_evaluated_at_every_size(trainer_of, encoder_folder):
    tasks = {"fits": {"type": "pair_classification", "labels": ["no", "yes"]}}
    pairs = Dataset.from_dict({"text": ["Oslo", "Lima"], "text_pair": ["Oslo", "Nimbus"], "fits": ["yes", "no"]})
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks)
    flags = BEST | {"matryoshka_dims": [32, 8], "metric_for_best_model": "fits_spearman_at_8"}
    trainer = trainer_of(of=model, train_dataset=pairs, eval_dataset=pairs, **flags)
    with pytest.raises(ValueError, match=r"is 'fits_spearman_at_8', which no evaluation .*'fits_accuracy'"):
        trainer.train()


@pytest.mark.parametrize("flags", [{}, {"freeze_encoder": True, "thaw_at": "1"}])
def test_the_neighbours_of_enough_texts_can_choose_the_best_model(trainer_of, features, flags):
    twelve = concatenate_datasets([features, features.select(range(4))])
    name = "eval_embedding_overlap_at_10"
    trainer = trainer_of(eval_dataset=twelve, metric_for_best_model=name, num_train_epochs=2, **BEST | flags)
    trainer.train()
    assert trainer.state.best_metric == max(line[name] for line in trainer.state.log_history if name in line)
    assert trainer.state.log_history[-2]["eval_embedding_cosine"] < 1.0


@pytest.mark.parametrize("name", ["eval_topic_macro_f1", "ner_f1", "loss", "composite", "eval_embedding_cosine"])
def test_every_reported_metric_can_choose_the_best_model(trainer_of, features, name):
    trainer = trainer_of(eval_dataset=features, metric_for_best_model=name, **BEST)
    trainer.train()
    assert trainer.state.best_metric is not None
