"""Tests the evaluation of a ranking by hand, and that of embeddings cut to smaller sizes."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import EvalPrediction

from losses_mtsbert import cosent_loss, loss_of_pairs
from mtsbert import MTLTrainingArguments, MTSBertModel, MTSBertTrainer
from mtsbert.results import ranking
from mtsbert.results.metrics import compute_metrics, count_answers, reduce_logits
from mtsbert.results.ranking import RANKED, RankingMetric, rank_own_texts, ranked_texts


def rows(anchors: list, own: list, negatives: list) -> np.ndarray:
    return np.concatenate([np.array(part, dtype=np.float32) for part in (anchors, own, negatives)], axis=1)


ANCHORS = [[1, 0], [0, 1], [1, 1], [1, 0]]
OWN = [[1, 0], [1, 0], [0, 2], [-1, 0]]
NEGATIVES = [[0, 0], [0, 1], [0, 0], [0, 0]]


def test_ranks_by_hand(monkeypatch):
    """
    Candidates are the second texts of the first three rows and one hard negative: (1, 0), (1, 0), (0, 2) and (0, 1).
    The first anchor has two at its own cosine of 1; the second has the cosines 0, 0, 1, 1; the third 0.7 four times.
    """
    for at_once in (500, 2):
        monkeypatch.setattr(ranking, "ANCHORS_AT_ONCE", at_once)
        ranks, loss = rank_own_texts(rows(ANCHORS, OWN, NEGATIVES), np.array([1, 1, 1, -100]), 20.0)
        assert ranks.tolist() == [1.5, 3.5, 2.5]
        u, v, w = (torch.tensor(part).float() for part in (ANCHORS, OWN, NEGATIVES))
        labels = torch.tensor([1, 1, 1, -100])
        expected = loss_of_pairs({"type": "pair_ranking"}, u, torch.cat([v, w]), labels)
        assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_mean_reciprocal_rank_and_recall_by_hand():
    assert RankingMetric(keep_in_memory=True).compute(predictions=np.array([1.0, 2.0, 10.0, 11.0])) == {
        "mrr": pytest.approx((1 + 1 / 2 + 1 / 10 + 1 / 11) / 4),
        "recall_at_10": 0.75,
    }


def evaluated(tasks: dict, logits: dict, labels: dict) -> dict[str, float]:
    reduced = {name: value.numpy() for name, value in reduce_logits(tasks)(logits, labels).items()}
    label_ids = {name: value.numpy() for name, value in labels.items()}
    assert count_answers(tasks, reduced, label_ids) == {}
    return compute_metrics(tasks)(EvalPrediction(reduced, label_ids))


def test_the_metrics_of_a_ranking_task():
    embeddings = torch.from_numpy(rows(ANCHORS, OWN, NEGATIVES))
    metrics = evaluated(
        {"fits": {"type": "pair_ranking"}},
        {"fits": torch.zeros(4), RANKED: embeddings},
        {"fits": torch.tensor([1, 1, 1, -100])},
    )
    assert metrics["fits_mrr"] == metrics["composite"] == pytest.approx((1 / 1.5 + 1 / 3.5 + 1 / 2.5) / 3)
    assert metrics["fits_recall_at_10"] == 1.0
    assert (
        evaluated({"fits": {"type": "pair_ranking"}}, {"fits": torch.zeros(1)}, {"fits": torch.tensor([-100])}) == {}
    )


def test_the_loss_of_cosent_is_that_of_all_pairs_together():
    task = {"type": "pair_similarity", "score_range": [0, 5], "loss": "cosent", "scale": 10.0}
    cosines, scores = torch.tensor([0.9, 0.1, 0.5, 0.3]), torch.tensor([5.0, 2.0, 1.0, torch.nan])
    metrics = evaluated({"near": task}, {"near": cosines}, {"near": scores})
    assert metrics["near_loss"] == pytest.approx(cosent_loss(cosines[:3], scores[:3], 10.0).item())
    assert metrics["near_spearman"] == pytest.approx(0.5)


def test_a_similarity_is_evaluated_at_every_size(trainer_of, encoder_folder, tokenizer):
    tasks = {"near": {"type": "pair_similarity", "score_range": [0, 5], "loss": "cosent"}}
    pairs = Dataset.from_list(
        [
            {"text": "Oslo beat Lima", "text_pair": "Lima lost", "near": 4.0},
            {"text": "Shares rise", "text_pair": "The final ends", "near": 0.0},
            {"text": "Ada Perez sells", "text_pair": "Ada Perez wins", "near": 2.0},
        ]
    )
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks)
    trainer = trainer_of(of=model, train_dataset=pairs, eval_dataset=pairs, matryoshka_dims=[32, 8])
    metrics = trainer.evaluate()
    assert metrics["eval_near_spearman_at_32"] == metrics["eval_near_spearman"]
    assert -1.0 <= metrics["eval_near_spearman_at_8"] <= 1.0
    model.eval()
    with torch.no_grad():
        u, v = (
            torch.stack([model(**tokenizer(text, return_tensors="pt")).pooler_output[0, :8] for text in pairs[name]])
            for name in ("text", "text_pair")
        )
    order = torch.cosine_similarity(u, v).argsort().tolist()
    expected = {(1, 2, 0): 1.0, (1, 0, 2): 0.5, (2, 1, 0): 0.5, (0, 1, 2): -0.5, (2, 0, 1): -0.5, (0, 2, 1): -1.0}
    assert metrics["eval_near_spearman_at_8"] == pytest.approx(expected[tuple(order)])


def test_sizes_that_cannot_be_are_refused(trainer_of, model, encoder_folder):
    pairs = MTSBertModel.from_encoder(str(encoder_folder), tasks={"fits": {"type": "pair_ranking"}})
    with pytest.raises(ValueError, match="`matryoshka_dims` has 33, and the embedding has only 32"):
        trainer_of(of=pairs, train_dataset=None, matryoshka_dims=[33, 8])
    with pytest.raises(ValueError, match=r"`matryoshka_dims` concerns tasks on two texts \(pair_classification,"):
        trainer_of(of=model, train_dataset=None, matryoshka_dims=[8])
    assert trainer_of(of=pairs, train_dataset=None, matryoshka_dims=[32, 8]).model.matryoshka_dims == (32, 8)
    assert trainer_of(of=pairs, train_dataset=None).model.matryoshka_dims == ()


def test_a_text_that_occurs_several_times_has_one_rank():
    """As before, but the first two second texts are one text, and the hard negative is that of the third row."""
    embeddings, labels = rows(ANCHORS, OWN, NEGATIVES), np.array([1, 1, 1, -100])
    texts = np.array([[7, 0], [7, 8], [8, 0], [9, 0]])
    ranks, loss = rank_own_texts(embeddings, labels, 20.0, texts)
    assert ranks.tolist() == [1, 2, 1.5]
    assert loss == rank_own_texts(embeddings, labels, 20.0)[1]


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_texts_are_known_by_their_tokens_whatever_the_padding(tokenizer, padding_side):
    texts = ["oslo wins", "lima", "wins oslo", "", "oslo wins", "lima lima", "oslo", "lima"]
    batches = [texts[:4], texts[4:], [*texts[:4], "oslo " * 20, *texts[5:]]]
    tokenizer = copy.copy(tokenizer)
    tokenizer.padding_side = padding_side
    found = []
    for batch, num_rows in zip(batches, (4, 4, 4), strict=True):
        padded = tokenizer(batch, padding=True, return_tensors="pt")
        mask = padded["attention_mask"] * torch.tensor([[bool(text)] for text in batch])
        found.append(ranked_texts(padded["input_ids"], mask, num_rows))
    numbers = torch.cat([found[0][:, 0], found[1][:, 0]])
    assert [[bool(one == other) for one in numbers] for other in numbers] == [[a == b for a in texts] for b in texts]
    assert numbers[3] == 0
    assert torch.equal(found[2][:, 0], numbers[:4])
    assert torch.equal(found[2][1:, 1], numbers[5:])


def test_a_question_is_found_by_an_answer_that_others_share(encoder_folder, tmp_path):
    questions = ["Oslo wins", "Lima wins", "Oslo", "the race", "the final", "the goal"]
    data = Dataset.from_dict({"text": questions, "text_pair": ["Ada", "Ada", "Ada", "Nimbus", "Nimbus", "Nimbus"]})
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks={"fits": {"type": "pair_ranking"}})
    arguments = MTLTrainingArguments(str(tmp_path), per_device_eval_batch_size=4, precision="fp32", disable_tqdm=True)
    found = MTSBertTrainer(model, arguments, eval_dataset=data).evaluate()
    assert found["eval_fits_mrr"] >= 0.5  # of two answers
    assert found["eval_fits_recall_at_10"] == 1.0
