"""Tests the similarity metrics against sentence-transformers' evaluator, with real sentences and the real MiniLM."""

import csv

import pytest


@pytest.mark.weights
@pytest.mark.real_data
def test_spearman_equals_that_of_sentence_transformers(real_data, minilm, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    from mtsbert.arguments import MTLTrainingArguments
    from mtsbert.data.features import build_features
    from mtsbert.input_arguments import ModelArguments
    from mtsbert.network.starting_point import load_model, load_tokenizer, resolve_name
    from mtsbert.training.trainer import MTSBertTrainer
    from tests.mtsbert.rows import examples_of

    with (real_data / "stsb" / "dev.csv").open(encoding="utf-8", newline="") as lines:
        rows = [row for row, _ in zip(csv.DictReader(lines), range(300), strict=False)]
    examples = [
        {"text": row["sentence1"], "text_pair": row["sentence2"], "similarity": float(row["score"])} for row in rows
    ]
    tasks = {"similarity": {"type": "pair_similarity", "score_range": [0, 5]}}
    arguments = ModelArguments(encoder_name_or_path=minilm)
    tokenizer = load_tokenizer(arguments)
    features, _ = build_features(examples_of(examples, tasks), tasks, tokenizer, max_length=128, split="validation")
    settings = MTLTrainingArguments(output_dir=str(tmp_path), precision="fp32", per_device_eval_batch_size=50)
    ours = MTSBertTrainer(
        load_model(arguments, tasks), settings, processing_class=tokenizer, eval_dataset=features
    ).evaluate()

    model = SentenceTransformer(resolve_name(minilm), device="cpu")
    evaluator = EmbeddingSimilarityEvaluator(
        [row["sentence1"] for row in rows],
        [row["sentence2"] for row in rows],
        [float(row["score"]) / 5 for row in rows],
    )
    theirs = evaluator(model)
    assert ours["eval_similarity_spearman"] == pytest.approx(theirs["spearman_cosine"], abs=1e-6)
    assert ours["eval_similarity_pearson"] == pytest.approx(theirs["pearson_cosine"], abs=1e-4)
