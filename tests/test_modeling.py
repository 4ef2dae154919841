"""Tests the model as a library model: shapes, losses, views, and what the Trainer relies on."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, DistilBertConfig, DistilBertModel

from configuration_mtsbert import MTSBertConfig
from modeling_mtsbert import (
    MTSBertForSequenceClassification,
    MTSBertForTokenClassification,
    MTSBertModel,
    MTSBertOutput,
    pool,
)


@pytest.fixture
def batch(tokenizer) -> dict[str, torch.Tensor]:
    return dict(tokenizer(["Ada Perez joins Nimbus Labs in Oslo", "Lima"], padding=True, return_tensors="pt"))


@pytest.fixture
def labels(batch) -> dict[str, torch.Tensor]:
    ner = torch.full(batch["input_ids"].shape, -100)
    ner[0, 1:4] = torch.tensor([5, 6, 0])
    ner[1, 1] = 1
    return {"topic": torch.tensor([0, 1]), "ner": ner}


def test_mean_max_and_cls_pooling_by_hand():
    hidden = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert pool(hidden, mask, "mean").tolist() == [[2.0, -3.0]]
    assert pool(hidden, mask, "max").tolist() == [[3.0, -2.0]]
    assert pool(hidden, mask, "cls").tolist() == [[1.0, -4.0]]


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_a_text_with_nothing_attended_pools_to_zero(pooling):
    assert pool(torch.full((1, 2, 3), torch.nan), torch.zeros(1, 2), pooling).tolist() == [[0.0, 0.0, 0.0]]


def test_shapes_and_order_of_the_output(model, batch):
    output = model(**batch)
    num_pieces = batch["input_ids"].shape[1]
    assert output.last_hidden_state.shape == (2, num_pieces, 32)
    assert output.pooler_output.shape == (2, 32)
    assert output.logits["topic"].shape == (2, 2)
    assert output.logits["ner"].shape == (2, num_pieces, 7)
    assert list(MTSBertOutput.__dataclass_fields__) == [
        "loss",
        "last_hidden_state",
        "pooler_output",
        "logits",
        "losses",
        "pair_pooler_output",
        "hidden_states",
        "attentions",
    ]


def test_the_embedding_has_length_one_and_heads_see_it_before_that(model, batch):
    output = model(**batch)
    assert torch.allclose(output.pooler_output.norm(dim=-1), torch.ones(2))
    states = pool(output.last_hidden_state, batch["attention_mask"], "mean")
    assert torch.equal(output.logits["topic"], model.heads["topic"](states))
    model.config.normalize = False
    assert torch.equal(model(**batch).pooler_output, states)


def test_padding_changes_nothing(model, tokenizer, batch):
    alone = model(**tokenizer(["Lima"], return_tensors="pt"))
    padded = model(**batch)
    assert torch.allclose(alone.logits["topic"][0], padded.logits["topic"][1], atol=1e-6)
    assert torch.allclose(alone.pooler_output[0], padded.pooler_output[1], atol=1e-6)


def test_losses_are_means_over_labelled_items(model, batch, labels):
    output = model(**batch, labels=labels)
    topic = F.cross_entropy(output.logits["topic"], labels["topic"])
    ner = F.cross_entropy(output.logits["ner"].flatten(0, 1), labels["ner"].flatten())
    assert torch.allclose(output.losses["topic"], topic)
    assert torch.allclose(output.losses["ner"], ner)
    assert torch.allclose(output.loss, topic + ner)


@pytest.mark.parametrize("absent", ["unlabelled", "left out"])
def test_a_task_without_labels_gives_zero_and_keeps_its_graph(model, batch, labels, absent):
    if absent == "unlabelled":
        labels["topic"] = torch.full((2,), -100)
    else:
        del labels["topic"]
    output = model(**batch, labels=labels)
    assert output.losses["topic"].item() == 0.0
    output.loss.backward()
    gradient = model.heads["topic"].classifier.weight.grad
    assert gradient is not None
    assert not gradient.any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_losses_can_be_divided_by_the_items_of_a_whole_step(model, batch, labels):
    ours = model(**batch, labels=labels).losses
    shared = model(
        **batch, labels=labels, num_items_in_batch={"topic": torch.tensor(8), "ner": torch.tensor(40)}
    ).losses
    assert torch.allclose(shared["topic"] * 8, ours["topic"] * 2)
    assert torch.allclose(shared["ner"] * 40, ours["ner"] * 4)


def test_losses_are_float32_in_a_bfloat16_model(model, batch, labels):
    output = model.to(torch.bfloat16)(**batch, labels=labels)
    assert output.logits["topic"].dtype == torch.bfloat16
    assert {loss.dtype for loss in output.losses.values()} == {torch.float32}


def test_labels_of_an_unknown_task_are_refused(model, batch):
    with pytest.raises(ValueError, match=r"tasks that the model does not have: \['mood'\]"):
        model(**batch, labels={"mood": torch.tensor([0, 1])})


def test_either_ids_or_embeddings(model, batch):
    embeds = model.get_input_embeddings()(batch["input_ids"])
    given = model(inputs_embeds=embeds, attention_mask=batch["attention_mask"])
    assert torch.allclose(given.pooler_output, model(**batch).pooler_output, atol=1e-6)
    with pytest.raises(ValueError, match="either `input_ids` or `inputs_embeds`"):
        model()
    with pytest.raises(ValueError, match="either `input_ids` or `inputs_embeds`"):
        model(input_ids=batch["input_ids"], inputs_embeds=embeds)


def test_no_mask_means_that_everything_is_text(model, batch):
    ids = batch["input_ids"]
    assert torch.equal(model(ids).pooler_output, model(ids, torch.ones_like(ids)).pooler_output)


def test_tuples_hidden_states_and_attentions_on_request(model, batch):
    output = model(**batch, output_hidden_states=True)
    assert len(output.hidden_states) == 3
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert output.attentions is None
    model.set_attn_implementation("eager")
    assert len(model(**batch, output_attentions=True).attentions) == 2
    as_tuple = model(**batch, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], model(**batch).last_hidden_state)


def test_eager_and_sdpa_attention_agree(model, batch):
    assert model.encoder.config._attn_implementation == "sdpa"
    sdpa = model(**batch).pooler_output
    model.set_attn_implementation("eager")
    assert torch.allclose(sdpa, model(**batch).pooler_output, atol=1e-5)


def test_embeddings_can_be_resized_and_the_size_is_saved(model, batch, tmp_path):
    before = model(**batch).pooler_output
    model.resize_token_embeddings(700, mean_resizing=False)
    assert torch.equal(model(**batch).pooler_output, before)
    model.save_pretrained(tmp_path)
    assert MTSBertModel.from_pretrained(tmp_path).get_input_embeddings().num_embeddings == 700


def test_activation_checkpointing_gives_the_same_gradients(model, batch, labels):
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model(**batch, labels=labels).loss.backward()
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    # transformers 5.23 renamed it
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    assert model.encoder.encoder.layer[0].gradient_checkpointing
    model(**batch, labels=labels).loss.backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, plain[name], atol=1e-6), name


def test_from_encoder_takes_every_weight_of_the_encoder(encoder_folder, model):
    encoder = AutoModel.from_pretrained(encoder_folder, add_pooling_layer=False).state_dict()
    ours = model.encoder.state_dict()
    assert set(ours) == set(encoder)
    assert all(torch.equal(ours[name], encoder[name]) for name in encoder)
    assert str(encoder_folder) not in model.config.to_json_string()


def test_an_encoder_of_another_family_works(tokenizer, tmp_path, tasks, batch):
    DistilBertModel(
        DistilBertConfig(vocab_size=len(tokenizer), dim=24, n_layers=3, n_heads=2, hidden_dim=48)
    ).save_pretrained(tmp_path)
    model = MTSBertModel.from_encoder(str(tmp_path), tasks=tasks, pooling="cls").eval()
    output = model(batch["input_ids"], batch["attention_mask"])
    assert output.pooler_output.shape == (2, 24)
    model.save_pretrained(tmp_path / "ours")
    again = MTSBertModel.from_pretrained(tmp_path / "ours").eval()
    assert torch.equal(again(batch["input_ids"], batch["attention_mask"]).logits["ner"], output.logits["ner"])


def test_loading_never_initialises_again(model, tmp_path):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.25)
    model.save_pretrained(tmp_path)
    loaded, info = MTSBertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert all((parameter == 0.25).all() for parameter in loaded.parameters())


def test_views_answer_with_one_head_and_agree_with_the_model(model, batch, labels, tmp_path):
    model.save_pretrained(tmp_path)
    expected = model(**batch, labels=labels)
    for view_class, task in [(MTSBertForSequenceClassification, "topic"), (MTSBertForTokenClassification, "ner")]:
        view = view_class.from_pretrained(tmp_path).eval()
        output = view(**batch, labels=labels[task])
        assert torch.equal(output.logits, expected.logits[task])
        assert torch.equal(output.loss, expected.losses[task])
        assert view.config.id2label == dict(enumerate(model.config.tasks[task]["labels"]))
        assert torch.equal(view(**batch, return_dict=False)[0], output.logits)


def test_saving_a_view_loses_nothing(model, tmp_path):
    model.save_pretrained(tmp_path / "a")
    MTSBertForTokenClassification.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    again = MTSBertModel.from_pretrained(tmp_path / "b").state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in model.state_dict().items())
    assert MTSBertConfig.from_pretrained(tmp_path / "b").auto_map == model.config.auto_map


def test_a_view_can_choose_its_head(config, tasks):
    config.tasks["mood"] = {"type": "sequence_classification", "labels": ["bad", "fine", "good"]}
    assert MTSBertForSequenceClassification(config).head == "topic"
    view = MTSBertForSequenceClassification(config, head="mood")
    assert view.config.id2label == {0: "bad", 1: "fine", 2: "good"}
    with pytest.raises(
        ValueError,
        match=r"`head` is 'ner'; the sequence_classification and sequence_regression tasks .* are \['topic', 'mood'\]",
    ):
        MTSBertForSequenceClassification(config, head="ner")


def test_a_view_of_a_type_that_the_checkpoint_lacks_is_refused(config):
    del config.tasks["topic"]
    with pytest.raises(
        ValueError, match=r"no sequence_classification and sequence_regression task; its tasks are .*'ner'"
    ):
        MTSBertForSequenceClassification(config)


def test_the_encoder_is_built_from_the_config_alone(config, monkeypatch):
    """Loading a checkpoint must not download a second one."""

    def refuse(*args, **kwargs):
        raise AssertionError("a model's constructor called from_pretrained")

    monkeypatch.setattr(AutoModel, "from_pretrained", refuse)
    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    assert MTSBertModel(config).encoder.config.num_hidden_layers == 2


@pytest.fixture
def all_tasks(tasks) -> dict[str, dict]:
    return {
        **tasks,
        "tags": {"type": "sequence_classification", "multi_label": True, "labels": ["x", "y", "z"], "hidden_size": 12},
        "nli": {"type": "pair_classification", "labels": ["no", "maybe", "yes"]},
        "sts": {"type": "pair_similarity", "score_range": [0, 5]},
    }


@pytest.fixture
def full_model(encoder_folder, all_tasks) -> MTSBertModel:
    """A model with every type of task, in evaluation mode."""
    torch.manual_seed(0)
    return MTSBertModel.from_encoder(str(encoder_folder), tasks=all_tasks).eval()


@pytest.fixture
def mixed(tokenizer) -> dict:
    """Four rows: a text, a pair, a text, a pair; second texts longer and shorter than the first."""
    first = tokenizer(["Lima hosts the race", "Oslo", "The final", "Ada Perez"], padding=True, return_tensors="pt")
    second = tokenizer(["", "Ada Perez wins the race in Lima", "", "Lima"], padding=True, return_tensors="pt")
    mask = second["attention_mask"] * torch.tensor([[0], [1], [0], [1]])
    return {
        "input_ids": first["input_ids"],
        "attention_mask": first["attention_mask"],
        "pair_input_ids": second["input_ids"],
        "pair_attention_mask": mask,
    }


@pytest.fixture
def mixed_labels(mixed) -> dict[str, torch.Tensor]:
    ner = torch.full(mixed["input_ids"].shape, -100)
    ner[0, 1:3] = torch.tensor([1, 0])
    nan = float("nan")
    return {
        "topic": torch.tensor([0, -100, 1, -100]),
        "ner": ner,
        "tags": torch.tensor([[1, 0, 1], [-100] * 3, [0, 0, 0], [-100] * 3]),
        "nli": torch.tensor([-100, 2, -100, -100]),
        "sts": torch.tensor([nan, 4.0, nan, 1.0]),
    }


def test_both_texts_of_a_pair_go_through_the_encoder_in_one_pass(full_model, mixed, monkeypatch):
    sizes = []
    forward = full_model.encoder.forward
    monkeypatch.setattr(
        full_model.encoder, "forward", lambda **inputs: (sizes.append(len(inputs["input_ids"])), forward(**inputs))[1]
    )
    full_model(**mixed)
    assert sizes == [4 + 2]  # four texts, and the two second texts that there are


def test_pairs_do_not_change_what_single_texts_give(full_model, mixed):
    alone = full_model(mixed["input_ids"], mixed["attention_mask"])
    paired = full_model(**mixed)
    assert set(alone.logits) == {"topic", "ner", "tags"}
    assert alone.pair_pooler_output is None
    assert paired.last_hidden_state.shape == alone.last_hidden_state.shape
    for task in alone.logits:
        assert torch.allclose(alone.logits[task], paired.logits[task], atol=1e-5)


def test_pair_logits_by_hand(full_model, mixed):
    output = full_model(**mixed)
    second = full_model(mixed["pair_input_ids"][1:2], mixed["pair_attention_mask"][1:2]).pooler_output[0]
    u, v = output.pooler_output[1], output.pair_pooler_output[1]
    assert torch.allclose(v, second, atol=1e-5)
    assert not output.pair_pooler_output[0].any()
    scale = full_model.config.tasks["nli"]["feature_scale"]
    expected = full_model.heads["nli"](torch.cat([u, v, (u - v).abs()]) * scale)
    assert torch.allclose(output.logits["nli"][1], expected, atol=1e-6)
    assert torch.allclose(output.logits["sts"][1], u @ v, atol=1e-6)
    swapped = full_model(
        mixed["pair_input_ids"][1:2],
        mixed["pair_attention_mask"][1:2],
        pair_input_ids=mixed["input_ids"][1:2],
        pair_attention_mask=mixed["attention_mask"][1:2],
    )
    assert torch.allclose(swapped.pair_pooler_output[0], u, atol=1e-5)


def test_hidden_states_and_attentions_are_those_of_the_first_texts(full_model, mixed):
    full_model.set_attn_implementation("eager")
    output = full_model(**mixed, output_hidden_states=True, output_attentions=True)
    length = mixed["input_ids"].shape[1]
    assert {tuple(state.shape) for state in output.hidden_states} == {(4, length, 32)}
    assert {tuple(weights.shape) for weights in output.attentions} == {(4, 2, length, length)}


def test_pairs_can_be_given_as_embeddings(full_model, mixed):
    expected = full_model(**mixed)
    embeddings = full_model.get_input_embeddings()
    given = full_model(
        inputs_embeds=embeddings(mixed["input_ids"]),
        attention_mask=mixed["attention_mask"],
        pair_inputs_embeds=embeddings(mixed["pair_input_ids"]),
        pair_attention_mask=mixed["pair_attention_mask"],
    )
    for task, logits in expected.logits.items():
        assert torch.allclose(given.logits[task], logits, atol=1e-5), task


@pytest.mark.parametrize("given", [("input_ids", "pair_inputs_embeds"), ("inputs_embeds", "pair_input_ids")])
def test_a_pair_of_word_pieces_and_embeddings_is_refused(full_model, mixed, given):
    ids = {"input_ids": mixed["input_ids"], "pair_input_ids": mixed["pair_input_ids"]}
    embeddings = full_model.get_input_embeddings()
    both = ids | {name.replace("input_ids", "inputs_embeds"): embeddings(value) for name, value in ids.items()}
    with pytest.raises(ValueError, match="both texts of a pair as word pieces, or both as embeddings"):
        full_model(**{name: both[name] for name in given})


def test_token_types_are_taken_with_pairs(full_model, mixed):
    zeros = torch.zeros_like(mixed["input_ids"])
    given = full_model(**mixed, token_type_ids=zeros)
    assert torch.allclose(given.logits["nli"], full_model(**mixed).logits["nli"], atol=1e-6)
    with pytest.raises(ValueError, match="without `position_ids`"):
        full_model(**mixed, position_ids=zeros)


def test_a_mixed_batch_equals_the_weighted_sum_over_the_tasks_own_batches(full_model, mixed, mixed_labels):
    """Loss and gradients of one partly labelled batch, against each task alone on the rows that have its labels."""
    weights = {"topic": 1.0, "ner": 0.5, "tags": 2.0, "nli": 1.5, "sts": 3.0}
    output = full_model(**mixed, labels=mixed_labels)
    total = sum(weight * output.losses[task] for task, weight in weights.items())
    total.backward()
    together = {name: parameter.grad.clone() for name, parameter in full_model.named_parameters()}
    full_model.zero_grad()
    rows = {"topic": [0, 2], "ner": [0], "tags": [0, 2], "nli": [1], "sts": [1, 3]}
    summed = torch.tensor(0.0)
    for task, chosen in rows.items():
        batch = {name: value[chosen] for name, value in mixed.items()}
        alone = full_model(**batch, labels={task: mixed_labels[task][chosen]})
        summed = summed + weights[task] * alone.losses[task]
    summed.backward()
    assert torch.allclose(total, summed, atol=1e-6)
    for name, parameter in full_model.named_parameters():
        assert torch.allclose(together[name], parameter.grad, atol=1e-6), name


def test_losses_of_every_type_by_hand(full_model, mixed, mixed_labels):
    output = full_model(**mixed, labels=mixed_labels)
    logits = output.logits
    tags = F.binary_cross_entropy_with_logits(logits["tags"][[0, 2]], mixed_labels["tags"][[0, 2]].float())
    assert torch.allclose(output.losses["tags"], tags)
    assert torch.allclose(output.losses["nli"], F.cross_entropy(logits["nli"][[1]], torch.tensor([2])))
    assert torch.allclose(output.losses["sts"], F.mse_loss(logits["sts"][[1, 3]], torch.tensor([0.8, 0.2])))


def test_class_weights_and_label_smoothing(config, batch, labels):
    config.tasks["topic"] |= {"class_weights": [3.0, 1.0], "label_smoothing": 0.2}
    model = MTSBertModel(config).eval()
    output = model(**batch, labels=labels)
    losses = F.cross_entropy(
        output.logits["topic"],
        labels["topic"],
        weight=torch.tensor([3.0, 1.0]),
        label_smoothing=0.2,
        reduction="none",
    )
    assert torch.allclose(output.losses["topic"], losses.mean())


@pytest.mark.parametrize("pairs", ["none given", "all padding"])
def test_pair_tasks_without_pairs_give_zero_and_keep_their_graph(full_model, mixed, mixed_labels, pairs):
    if pairs == "none given":
        mixed = {name: value for name, value in mixed.items() if not name.startswith("pair")}
    else:
        mixed["pair_attention_mask"] = torch.zeros_like(mixed["pair_attention_mask"])
    labels = {task: mixed_labels[task] for task in ("topic", "ner", "tags")}
    output = full_model(**mixed, labels=labels)
    assert output.losses["nli"].item() == output.losses["sts"].item() == 0.0
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in full_model.parameters())
    assert not full_model.heads["nli"].classifier.weight.grad.any()


def test_labels_of_a_pair_task_without_second_texts_are_refused(full_model, mixed, mixed_labels):
    with pytest.raises(ValueError, match="'nli', which compares two texts, but there is no `pair_input_ids`"):
        full_model(mixed["input_ids"], mixed["attention_mask"], labels=mixed_labels)


def test_zero_vectors_and_rows_of_padding_never_give_nan(full_model, mixed, mixed_labels):
    mixed["attention_mask"] = mixed["attention_mask"].clone()
    mixed["attention_mask"][3] = 0  # the first text of a labelled pair has nothing in it: its embedding is 0
    output = full_model(**mixed, labels=mixed_labels)
    assert not output.pooler_output[3].any()
    assert output.loss.isfinite()
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in full_model.parameters())


def test_every_task_type_survives_saving(full_model, mixed, tmp_path):
    full_model.save_pretrained(tmp_path)
    loaded, info = MTSBertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    expected, found = full_model(**mixed).logits, loaded.eval()(**mixed).logits
    assert list(found) == ["topic", "ner", "tags", "nli", "sts"]
    assert all(torch.equal(found[task], expected[task]) for task in expected)


def test_a_view_on_several_labels_says_so_to_the_pipelines(full_model):
    assert MTSBertForSequenceClassification(full_model.config).config.problem_type == "single_label_classification"
    view = MTSBertForSequenceClassification(full_model.config, head="tags")
    assert view.config.problem_type == "multi_label_classification"


def test_a_view_divides_by_the_items_of_a_whole_step_as_the_stock_trainer_asks(model, batch, labels, tmp_path):
    model.save_pretrained(tmp_path)
    view = MTSBertForSequenceClassification.from_pretrained(tmp_path).eval()
    ours = view(**batch, labels=labels["topic"]).loss
    assert torch.allclose(view(**batch, labels=labels["topic"], num_items_in_batch=torch.tensor(8)).loss, ours * 2 / 8)


def test_other_heads_than_those_asked_for_do_not_run(full_model, mixed):
    ran = []
    for name, head in full_model.heads.items():
        head.register_forward_hook(lambda *_, name=name: ran.append(name))
    expected = full_model(**mixed)
    ran.clear()
    output = full_model(**mixed, tasks=["sts", "topic"])
    assert ran == list(output.logits) == ["topic", "sts"]
    assert all(torch.equal(output.logits[task], expected.logits[task]) for task in output.logits)
    assert torch.equal(output.pooler_output, expected.pooler_output)


def test_tasks_that_cannot_be_chosen_are_refused(full_model, mixed, mixed_labels):
    with pytest.raises(ValueError, match=r"`tasks` names tasks .* not have: \['mood'\]; it has \['topic', 'ner', "):
        full_model(**mixed, tasks=["topic", "mood"])
    with pytest.raises(ValueError, match="Give either `labels` or `tasks`"):
        full_model(**mixed, tasks=["topic"], labels=mixed_labels)


@pytest.mark.parametrize(
    ("view_class", "options"),
    [
        (MTSBertForSequenceClassification, {"num_labels": 7}),
        (MTSBertForSequenceClassification, {"id2label": {0: "a", 1: "b", 2: "c"}}),
        (MTSBertForTokenClassification, {"id2label": {0: "O", 1: "B-X", 2: "I-X"}}),
    ],
)
def test_a_view_with_other_labels_gets_a_fresh_head(model, batch, tmp_path, view_class, options):
    model.save_pretrained(tmp_path / "ours")
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        view_class.from_pretrained(tmp_path / "ours", **options)
    view = view_class.from_pretrained(tmp_path / "ours", ignore_mismatched_sizes=True, **options).eval()
    number = options.get("num_labels") or len(options["id2label"])
    assert view(**batch).logits.shape[-1] == view.num_labels == view.config.num_labels == number
    assert view.config.id2label == options.get("id2label", {index: f"LABEL_{index}" for index in range(number)})
    view.save_pretrained(tmp_path / "view")
    again = view_class.from_pretrained(tmp_path / "view").eval()
    assert torch.equal(again(**batch).logits, view(**batch).logits)


def test_two_labels_are_not_taken_for_the_default_of_transformers(config, batch, tmp_path):
    config.tasks = {"mood": {"type": "sequence_classification", "labels": ["bad", "fine", "good"]}}
    MTSBertModel(config).save_pretrained(tmp_path)
    assert MTSBertForSequenceClassification.from_pretrained(tmp_path).num_labels == 3
    view = MTSBertForSequenceClassification.from_pretrained(tmp_path, num_labels=2, ignore_mismatched_sizes=True)
    assert view.eval()(**batch).logits.shape == (2, 2)
    asked = MTSBertConfig(encoder_config=config.encoder_config, tasks=config.tasks, num_labels=2)
    assert MTSBertForSequenceClassification(asked).num_labels == 2


def test_a_view_with_other_names_of_its_labels_keeps_its_head(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    names = {index: f"name {index}" for index in range(len(model.config.tasks["topic"]["labels"]))}
    view = MTSBertForSequenceClassification.from_pretrained(tmp_path, id2label=names).eval()
    assert view.config.tasks["topic"]["labels"] == list(names.values())
    assert torch.equal(view(**batch).logits, model.eval()(**batch).logits["topic"])


def test_labels_that_a_view_cannot_have_are_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"Task 'ner': .*'O' first"):
        MTSBertForTokenClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    with pytest.raises(ValueError, match="Task 'topic': needs at least two labels"):
        MTSBertForSequenceClassification.from_pretrained(tmp_path, num_labels=1, ignore_mismatched_sizes=True)


def test_the_loss_of_a_view_without_labelled_items_is_0(model, batch, labels, tmp_path):
    model.save_pretrained(tmp_path)
    view = MTSBertForSequenceClassification.from_pretrained(tmp_path).eval()
    for number in (0, torch.tensor(0)):
        loss = view(**batch, labels=torch.full_like(labels["topic"], -100), num_items_in_batch=number).loss
        assert loss.item() == 0.0
