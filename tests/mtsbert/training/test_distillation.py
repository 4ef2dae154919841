"""Tests that `embedding_distillation` keeps the sentence embeddings in place while other tasks are learned."""

import copy
import json
import logging
import shutil

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoTokenizer, BertConfig, BertModel, set_seed

from modeling_mtsbert import MTSBertModel
from mtsbert.data.features import build_features
from mtsbert.network.embedding_targets import EmbeddingTargets, distances
from pipeline_mtsbert import save_sentence_transformers_files
from run_mtl import main
from tests.mtsbert.rows import examples_of
from tests.mtsbert.training.test_trainer import gradients, without_dropout


PAIR_TASKS = {
    "topic": {"type": "sequence_classification", "labels": ["a", "b"]},
    "near": {"type": "pair_similarity", "score_range": [0, 1]},
}


@pytest.fixture
def cached(tmp_path):
    return {"feature_cache_dir": str(tmp_path / "cache")}


def other_targets(num_rows: int, width: int = 32) -> EmbeddingTargets:
    """Targets that no model has, so that there is something to learn."""
    vectors = torch.randn(2 * num_rows, width, generator=torch.Generator().manual_seed(0))
    return EmbeddingTargets(num_rows, F.normalize(vectors, dim=-1).half())


def embeddings(model: MTSBertModel, tokenizer, texts: list[str]) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).pooler_output for text in texts])


def test_the_targets_are_the_embeddings_of_the_model_before_training(trainer_of, model, tokenizer, examples, cached):
    trainer = trainer_of(of=model, per_device_eval_batch_size=3, **cached)
    targets = trainer.targets_of(trainer.train_dataset)
    expected = embeddings(model, tokenizer, [row["text"] for row in examples])
    assert torch.allclose(targets.batch(list(range(8))), expected, atol=1e-3)
    assert not targets.batch([3], second=True).any()  # there are no second texts
    assert distances(expected, targets.batch(list(range(8)))).max() < 1e-6


@pytest.mark.parametrize("split", [(8, 1), (2, 4), (4, 2)])
def test_the_loss_is_a_mean_over_the_texts_of_the_whole_step(trainer_of, model, cached, split):
    """By hand: 1 - cosine of every text, averaged, times the weight."""
    model = without_dropout(model)
    batch_size, accumulation = split
    trainer = trainer_of(
        of=copy.deepcopy(model), max_grad_norm=0.0, embedding_distillation=3.0, per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation, **cached,
    )  # fmt: skip
    trainer.targets = other_targets(8)
    found = gradients(trainer)
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
    output = model.train()(**batch)
    held = 1 - F.cosine_similarity(output.pooler_output, trainer.targets.vectors[:8].float(), dim=-1)
    (output.loss + 3.0 * held.mean()).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-6), name


def test_both_texts_of_a_pair_are_held_and_a_missing_one_counts_for_nothing(
    trainer_of, encoder_folder, tokenizer, cached
):
    rows = [
        {"text": "Oslo beat Lima", "text_pair": "Lima lost", "near": 0.2},
        {"text": "Shares rise", "text_pair": "Shares fall", "near": 0.9},
        {"text": "The final ends", "topic": "b"},
    ]
    features, _ = build_features(examples_of(rows, PAIR_TASKS), PAIR_TASKS, tokenizer, max_length=32, split="train")
    model = without_dropout(MTSBertModel.from_encoder(str(encoder_folder), tasks=PAIR_TASKS))
    trainer = trainer_of(
        of=copy.deepcopy(model), train_dataset=features, max_grad_norm=0.0, embedding_distillation=2.0,
        per_device_train_batch_size=1, gradient_accumulation_steps=3, **cached,
    )  # fmt: skip
    trainer.targets = other_targets(3)
    trainer.targets.vectors[5] = 0.0
    found = gradients(trainer)
    batch = trainer.data_collator([features[row] for row in range(3)])
    output = model.train()(**batch)
    texts = torch.cat([output.pooler_output, output.pair_pooler_output[:2]])
    held = 1 - F.cosine_similarity(texts, trainer.targets.vectors[:5].float(), dim=-1)
    (output.loss + 2.0 * held.mean()).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-6), name


def trained(trainer_of, model, **settings) -> MTSBertModel:
    trainer = trainer_of(of=copy.deepcopy(model), num_train_epochs=8, learning_rate=3e-3, **settings)
    trainer.train()
    return trainer.model


def test_the_embedding_stays_where_it_is_held(trainer_of, model, tokenizer, examples, cached):
    texts = [row["text"] for row in examples]
    before = embeddings(model, tokenizer, texts)
    moved, held = (
        (embeddings(trained(trainer_of, model, embedding_distillation=weight, **cached), tokenizer, texts) * before)
        .sum(dim=-1)
        .mean()
        for weight in (0.0, 50.0)
    )
    assert held > 0.98
    assert moved < held - 0.02


@pytest.mark.parametrize(
    "settings",
    [
        {"padding_free": False},
        {"freeze_embeddings": True, "num_frozen_layers": 1, "feature_cache": True, "feature_cache_dtype": "fp32"},
        {"precision": "bf16"},
        {"gradual_unfreezing": True, "unfreeze_every": 1},
    ],
)
def test_it_works_beside_whatever_makes_batches_otherwise(trainer_of, model, cached, settings):
    trainer = trainer_of(
        of=without_dropout(model), embedding_distillation=2.0, num_train_epochs=2, per_device_train_batch_size=4,
        **settings, **cached,
    )  # fmt: skip
    trainer.train()
    losses = [line["embedding_loss"] for line in trainer.state.log_history if "embedding_loss" in line]
    assert len(losses) == 4
    assert losses[0] == pytest.approx(0.0, abs=1e-2)  # nothing has moved yet
    assert max(losses) > 0.0


def test_padding_free_training_learns_the_same(trainer_of, model, cached):
    weights = []
    for padding_free in (True, False):
        trainer = trainer_of(
            of=without_dropout(model),
            embedding_distillation=5.0,
            padding_free=padding_free,
            num_train_epochs=2,
            **cached,
        )
        trainer.targets = other_targets(8)
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-4) for name in weights[0])


def ends_of(recipe, tmp_path, **flags) -> list[dict[str, torch.Tensor]]:
    """The weights after a run, and after one that went on from its third step, with another cache."""
    flags |= {"num_train_epochs": 3, "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 1}
    main(["--config", str(recipe(**flags))])
    path = recipe(**flags, output_dir=str(tmp_path / "again"))
    again = ["--config", str(path), "--resume_from_checkpoint", str(tmp_path / "run" / "checkpoint-3")]
    main([*again, "--feature_cache_dir", str(tmp_path / "new_cache")])
    return [load_file(tmp_path / folder / "model.safetensors") for folder in ("run", "again")]


def test_a_resumed_run_is_held_by_the_model_it_started_from(recipe, tmp_path):
    flags = {"embedding_distillation": 5.0, "feature_cache_dir": str(tmp_path / "cache")}
    ends = ends_of(recipe, tmp_path, **flags)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_texts_without_labels_hold_the_embedding_too(recipe, news_file, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"body": f"Lima hosts race {number}"}) for number in range(6)))
    datasets = {
        "news": {"files": {"train": str(news_file)}, "columns": {"text": "text", "label": "topic", "entities": "ner"}},
        "texts": {"files": {"train": str(texts)}, "columns": {"body": "text"}},
    }
    with pytest.raises(ValueError, match=r"Dataset 'texts' feeds no task.*or learn from its texts alone with"):
        main(["--config", str(recipe(datasets=datasets))])
    metrics = main(
        ["--config", str(recipe(datasets=datasets, embedding_distillation=2.0)), "--feature_cache_dir", str(tmp_path)]
    )
    assert metrics["train_loss"] > 0


def test_a_run_says_what_happened_to_its_embedding(recipe, encoder_folder, tmp_path):
    flags = {"do_eval": True, "eval_strategy": "epoch", "num_train_epochs": 2, "learning_rate": 5e-3}
    flags["feature_cache_dir"] = str(tmp_path / "cache")
    free = main(["--config", str(recipe(**flags))])
    assert json.loads((tmp_path / "run" / "config.json").read_text())["embedding_reference"] is None
    card = (tmp_path / "run" / "README.md").read_text()
    assert free["eval_embedding_cosine"] < 0.9
    name = encoder_folder.name
    assert f"This embedding has moved from that of {name}: on validation texts, mean cosine 0." in card
    held = main(["--config", str(recipe(**flags, embedding_distillation=1000.0))])
    assert held["eval_embedding_cosine"] > 0.95
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"can be searched in an index built with {name}: on validation texts, mean cosine 0.9" in card
    assert json.loads((tmp_path / "run" / "config.json").read_text())["embedding_reference"] == name


def test_the_cosine_is_that_of_the_validation_texts(trainer_of, model, features, tokenizer, examples, cached):
    texts = [row["text"] for row in examples]
    before = embeddings(model, tokenizer, texts)
    trainer = trainer_of(
        of=model,
        eval_dataset=features,
        per_device_eval_batch_size=3,
        train_sampling_strategy="group_by_length",
        **cached,
    )
    trainer.train()
    expected = F.cosine_similarity(embeddings(model, tokenizer, texts), before, dim=-1).mean().item()
    assert trainer.evaluate()["eval_embedding_cosine"] == pytest.approx(expected, abs=1e-4)
    assert "eval_embedding_cosine" not in trainer.evaluate(Dataset.from_list(examples))  # other texts


@pytest.fixture
def first_encoder(encoder_folder, tokenizer, tmp_path):
    """An encoder other than that of `model`, with the same tokenizer, a checkpoint, and a SentenceTransformer."""
    set_seed(7)
    encoder = BertModel(BertModel.from_pretrained(encoder_folder).config)
    encoder.save_pretrained(tmp_path / "first")
    checkpoint = MTSBertModel.from_encoder(str(encoder_folder), tasks=PAIR_TASKS, pooling="cls")
    checkpoint.save_pretrained(tmp_path / "checkpoint")
    for folder in ("first", "checkpoint"):
        tokenizer.save_pretrained(tmp_path / folder)
    shutil.copytree(tmp_path / "first", tmp_path / "sentences")
    save_sentence_transformers_files(checkpoint.config, tmp_path / "sentences")
    return tmp_path


@pytest.mark.parametrize(("name", "pooling"), [("first", "mean"), ("checkpoint", "cls"), ("sentences", "cls")])
def test_a_run_can_be_held_by_another_model_than_it_starts_from(
    trainer_of, model, features, first_encoder, tokenizer, examples, cached, name, pooling
):
    where = first_encoder / name
    trainer = trainer_of(
        of=model, eval_dataset=features, embedding_distillation=1.0, embedding_reference=str(where), **cached
    )
    trainer.train()
    encoder = BertModel.from_pretrained(where) if name != "checkpoint" else MTSBertModel.from_pretrained(where).encoder
    texts = [tokenizer(row["text"], return_tensors="pt") for row in examples]
    with torch.no_grad():
        states = [encoder.eval()(**text).last_hidden_state[0] for text in texts]
    expected = torch.stack([state.mean(dim=0) if pooling == "mean" else state[0] for state in states])
    assert torch.allclose(trainer.targets.batch(list(range(8))), F.normalize(expected, dim=-1), atol=1e-3)
    assert torch.equal(trainer.eval_targets.vectors, trainer.targets.vectors)  # of the same rows here
    assert model.config.embedding_reference == name


def test_a_frozen_encoder_is_compared_with_another_reference_as_well(
    trainer_of, model, features, first_encoder, cached
):
    reference = str(first_encoder / "first")
    trainer = trainer_of(of=model, eval_dataset=features, freeze_encoder=True, embedding_reference=reference, **cached)
    trainer.train()
    assert trainer.evaluate()["eval_embedding_cosine"] < 0.99


def test_a_reference_that_does_not_fit_is_refused(trainer_of, tokenizer, first_encoder):
    with pytest.raises(ValueError, match="`embedding_reference` 'nowhere' cannot be loaded"):
        trainer_of(embedding_reference="nowhere")
    AutoTokenizer.from_pretrained(first_encoder / "first").save_pretrained(first_encoder / "other")
    BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=1,
                         intermediate_size=16)).save_pretrained(first_encoder / "other")  # fmt: skip
    with pytest.raises(ValueError, match="has embeddings of 16 numbers, and the model that is trained has 32"):
        trainer_of(embedding_reference=str(first_encoder / "other"))
    more = copy.deepcopy(tokenizer)
    more.add_tokens(["zyzzyva"])
    more.save_pretrained(first_encoder / "other")
    with pytest.raises(ValueError, match="has another vocabulary than the model that is trained"):
        trainer_of(embedding_reference=str(first_encoder / "other"))


def test_no_target_is_computed_for_a_frozen_encoder(trainer_of, features, cached, caplog):
    with caplog.at_level(logging.INFO, "mtsbert"):
        trainer = trainer_of(freeze_encoder=True, eval_dataset=features, **cached)
        trainer.train()
    assert trainer.targets is None
    assert trainer.eval_targets is None
    assert "eval_embedding_cosine" not in trainer.evaluate()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding_distillation": -1.0}, "`embedding_distillation` is -1.0; it must not be negative"),
        ({"embedding_distillation": 1.0, "freeze_encoder": True}, "with `freeze_encoder` it does not move"),
        ({"embedding_distillation": 1.0, "gradient_aggregator": "UPGrad"}, "it knows no `embedding_distillation`"),
    ],
)
def test_what_cannot_be_is_refused(trainer_of, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(**settings)


def test_a_second_training_is_held_by_the_same_model(trainer_of, model, cached):
    trainer = trainer_of(of=model, embedding_distillation=1.0, **cached)
    trainer.train()
    first = trainer.targets
    trainer.train()
    assert trainer.targets is first
