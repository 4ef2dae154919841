"""Tests losses that compare the pairs of a batch with each other, and Matryoshka sums of losses."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from losses_mtsbert import cosent_loss, loss_of_pairs, ranking_losses
from modeling_mtsbert import MTSBertModel, MTSBertOutput


NEAR = {"type": "pair_similarity", "score_range": [0, 5]}
TASKS = {
    "mse": NEAR,
    "cosent": {**NEAR, "loss": "cosent"},
    "ranking": {"type": "pair_ranking"},
    "follows": {"type": "pair_classification", "labels": ["no", "yes", "maybe"]},
}
SIZES = (32, 16, 8)


@pytest.fixture
def model(encoder_folder) -> MTSBertModel:
    return MTSBertModel.from_encoder(str(encoder_folder), tasks=copy.deepcopy(TASKS)).eval()


def embeddings(number: int, seed: int = 0) -> torch.Tensor:
    made = torch.randn(number, 32, generator=torch.Generator().manual_seed(seed))
    return F.normalize(made, dim=-1).requires_grad_()


def scores(number: int) -> torch.Tensor:
    """With ties."""
    return torch.randint(0, 6, (number,), generator=torch.Generator().manual_seed(9)).float()


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, *inputs: torch.Tensor) -> None:
    """Value and gradients."""
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6, rel=1e-6)
    for one, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
        assert one.abs().max() > 1e-3


class Embedded(torch.nn.Module):
    """What sentence-transformers' Matryoshka loss takes for a model: it "embeds" what is an embedding already."""

    def forward(self, features: dict) -> dict:
        return {"sentence_embedding": features["sentence_embedding"]}

    def get_embedding_dimension(self) -> int:
        return 32


def theirs(loss_class, columns: list[torch.Tensor], labels: torch.Tensor | None = None, *, sizes=None, **options):
    from sentence_transformers.sentence_transformer import losses

    model = Embedded()
    loss = getattr(losses, loss_class)(model, **options)
    if sizes is not None:
        loss = losses.MatryoshkaLoss(model, loss, sizes)
    return loss([{"sentence_embedding": column} for column in columns], labels)


@pytest.mark.parametrize("scale", [20.0, 5.0])
def test_cosent_equals_that_of_sentence_transformers(scale):
    u, v, labels = embeddings(12), embeddings(12, 1), scores(12)
    ours = loss_of_pairs({**TASKS["cosent"], "scale": scale}, u, v, labels)
    assert_same(ours, theirs("CoSENTLoss", [u, v], labels, scale=scale), u, v)


def test_cosent_by_hand():
    """log(1 + the sum over all pairs of pairs whose order is known), as in the definition."""
    cosines, labels = torch.tensor([0.9, 0.1, 0.5, 0.4]), torch.tensor([1.0, 3.0, 1.0, 2.0])
    terms = [(1, 0), (1, 2), (1, 3), (3, 0), (3, 2)]  # i, j with s_i > s_j
    expected = math.log(1 + sum(math.exp(20 * (cosines[j] - cosines[i])) for i, j in terms))
    assert cosent_loss(cosines, labels).item() == pytest.approx(expected, rel=1e-6)
    assert cosent_loss(cosines, torch.ones(4)).item() == 0.0


@pytest.mark.parametrize("scale", [20.0, 50.0])
def test_ranking_without_hard_negatives_equals_that_of_sentence_transformers(scale):
    u, v = embeddings(10), embeddings(10, 1)
    ours = loss_of_pairs({"type": "pair_ranking", "scale": scale}, u, v, torch.ones(10, dtype=torch.long))
    assert_same(ours, theirs("MultipleNegativesRankingLoss", [u, v], scale=scale), u, v)


def test_ranking_with_hard_negatives_equals_that_of_sentence_transformers():
    u, v, w = embeddings(10), embeddings(10, 1), embeddings(10, 2)
    ours = loss_of_pairs(TASKS["ranking"], u, torch.cat([v, w]), torch.ones(10, dtype=torch.long))
    assert_same(ours, theirs("MultipleNegativesRankingLoss", [u, v, w]), u, v, w)


def test_rows_without_a_label_or_a_hard_negative_are_no_candidates():
    u, v, w = embeddings(4), embeddings(4, 1), embeddings(4, 2)
    labels = torch.tensor([1, -100, 1, 1])
    negatives = torch.stack([torch.zeros(32), w[1], w[2], torch.zeros(32)])
    found = loss_of_pairs(TASKS["ranking"], u, torch.cat([v, negatives]), labels)
    rows = [0, 2, 3]
    expected = ranking_losses(u[rows], torch.cat([v[rows], w[2:3]]), torch.arange(3)).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_without_a_labelled_row_the_loss_is_0_and_keeps_its_graph():
    u, v = embeddings(3), embeddings(3, 1)
    for task, labels in (("ranking", torch.full((3,), -100)), ("cosent", torch.full((3,), torch.nan))):
        loss = loss_of_pairs(TASKS[task], u, v, labels)
        assert loss.item() == 0.0
        assert not any(gradient.any() for gradient in torch.autograd.grad(loss, (u, v)))


def test_cosines_are_float32_under_autocast():
    u, v = embeddings(6), embeddings(6, 1)
    plain = ranking_losses(u, v, torch.arange(6))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ranking_losses(u, v, torch.arange(6)), plain)


def ours_at_sizes(model: MTSBertModel, task: str, u: torch.Tensor, v: torch.Tensor, labels: torch.Tensor):
    model.matryoshka_dims = SIZES
    output = MTSBertOutput(
        pooler_output=u, pair_pooler_output=v, logits={task: model.pair_logits(task, u, v[: len(u)])}
    )
    return model.pair_loss(task, output, labels, torch.tensor(len(u)))


def test_matryoshka_equals_that_of_sentence_transformers(model):
    u, v, w, labels = embeddings(10), embeddings(10, 1), embeddings(10, 2), scores(10)
    assert_same(
        ours_at_sizes(model, "mse", u, v, labels),
        theirs("CosineSimilarityLoss", [u, v], labels / 5, sizes=SIZES), u, v,
    )  # fmt: skip
    assert_same(ours_at_sizes(model, "cosent", u, v, labels), theirs("CoSENTLoss", [u, v], labels, sizes=SIZES), u, v)
    assert_same(
        ours_at_sizes(model, "ranking", u, torch.cat([v, w]), torch.ones(10, dtype=torch.long)),
        theirs("MultipleNegativesRankingLoss", [u, v, w], sizes=SIZES), u, v, w,
    )  # fmt: skip


def test_one_head_classifies_embeddings_of_every_size(model):
    """As MRL-E in arXiv 2205.13147: dimensions beyond the size are 0. The full size is not added."""
    u, v, labels = embeddings(6), embeddings(6, 1), torch.tensor([0, 1, 2, 0, 1, 2])
    expected = 0.0
    for size in SIZES:
        inside = (torch.arange(32) < size).float()
        a, b = F.normalize(u * inside, dim=-1), F.normalize(v * inside, dim=-1)
        scale = model.config.tasks["follows"]["feature_scale"]
        logits = model.heads["follows"](torch.cat([a, b, (a - b).abs()], dim=-1) * scale)
        expected = expected + F.cross_entropy(logits, labels)
    assert_same(ours_at_sizes(model, "follows", u, v, labels), expected, u, v)


def test_embeddings_that_are_not_normalized_are_only_cut(model):
    model.config.normalize, model.matryoshka_dims = False, (8,)
    ((cut,),) = model._at_sizes(torch.full((1, 32), 2.0))
    assert cut.tolist() == [[2.0] * 8 + [0.0] * 24]


def test_forward_computes_the_losses_within_the_batch(model, tokenizer):
    firsts, seconds = ["Oslo beat Lima", "Shares rise", "The final ends"], ["Lima lost", "Shares fall", ""]
    negatives = ["", "Lima hosts the race", ""]
    texts = tokenizer(firsts, padding=True, return_tensors="pt")
    others = tokenizer(seconds + negatives, padding=True, return_tensors="pt")
    present = torch.tensor([bool(text) for text in seconds + negatives]).long().unsqueeze(1)
    model.double()  # in float32, the rounding of a cosine times the scale of 20 is as large as the tolerance
    output = model(
        **texts,
        pair_input_ids=others["input_ids"],
        pair_attention_mask=others["attention_mask"] * present,
        labels={
            "ranking": torch.tensor([1, 1, -100]),
            "cosent": torch.tensor([4.0, 1.0, torch.nan]),
            "mse": torch.tensor([torch.nan, 2.0, torch.nan]),
        },
    )
    u, v = output.pooler_output, output.pair_pooler_output
    assert v.shape == (6, 32)
    assert v.any(dim=1).tolist() == [True, True, False, False, True, False]
    assert output.logits["ranking"].shape == (3,)
    candidates = torch.cat([v[:2], v[4:5]])
    expected = {
        "ranking": ranking_losses(u[:2], candidates, torch.arange(2)).mean(),
        "cosent": cosent_loss((u * v[:3]).sum(dim=1)[:2], torch.tensor([4.0, 1.0])),
        "mse": ((u[1] @ v[1]) - 0.4) ** 2,
        "follows": torch.zeros(()),
    }
    for task, loss in output.losses.items():
        assert loss.item() == pytest.approx(expected[task].item(), abs=1e-6), task
