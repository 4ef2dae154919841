"""Tests that an encoder without capital letters learns to read them, and that its checkpoints are plain."""

import copy
import json

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import nn
from transformers import AutoModel, AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast, set_seed

from modeling_mtsbert import MTSBertModel
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.commands.train import main
from mtsbert.exports.pipeline import load_pipeline
from mtsbert.letter_case.embedding import HIDDEN_IN, CaseEmbedding, read_letter_case
from mtsbert.letter_case.tokenizer import CAPITALISED, CAPITALS, cased_words, keeps_letter_case, with_letter_case
from mtsbert.network.starting_point import pipeline_of_checkpoint
from mtsbert.training.trainer import MTSBertTrainer
from tests.conftest import ROWS


TEXTS = ["Oslo wins the race", "ADA PEREZ joins Nimbus Labs", "the final ends without a goal"]
EVERY_STEP = {"per_device_train_batch_size": 4, "num_train_epochs": 4, "save_strategy": "steps", "save_steps": 1}


@pytest.fixture(scope="module")
def wide(tokenizer):
    return with_letter_case(tokenizer)


@pytest.fixture
def case_model(encoder_folder, tasks) -> MTSBertModel:
    set_seed(0)
    return MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks, letter_case=True).eval()


@pytest.fixture
def rows() -> Dataset:
    entities = [[{"start": s, "end": e, "label": label} for s, e, label in spans] for _, _, spans in ROWS]
    texts = [text if index % 3 else text.upper() for index, (text, *_) in enumerate(ROWS)]
    return Dataset.from_dict({"text": texts, "topic": [t for _, t, _ in ROWS], "ner": entities})


@pytest.fixture
def trainer_of_rows(rows, tokenizer, tmp_path):
    def build(model: MTSBertModel, **arguments) -> MTSBertTrainer:
        set_seed(3)
        validation = rows if "eval_strategy" in arguments else None
        settings = {"precision": "fp32", "learning_rate": 1e-2, "disable_tqdm": True, "save_strategy": "no"}
        args = MTLTrainingArguments(output_dir=str(tmp_path / "run"), **{**settings, **arguments})
        return MTSBertTrainer(model, args, processing_class=tokenizer, train_dataset=rows, eval_dataset=validation)

    return build


def lower_ids(wide, ids: list[int]) -> list[int]:
    word_of = {cased: word for cased, word, _ in cased_words(wide)}
    return [word_of.get(id_, id_) for id_ in ids]


@given(
    words=st.lists(
        st.tuples(
            st.sampled_from("oslo perez nimbus labs joins zürich 42nd b2 lima's ß ﬁ ŉ".split()) | st.text(max_size=6),
            st.sampled_from([str.lower, str.upper, lambda word: word[:1].upper() + word[1:].lower()]),
        ),
        max_size=8,
    )
)
def test_a_text_is_cut_where_it_was(tokenizer, wide, words):
    text = " ".join(write(word) for word, write in words if write(word).lower() == word.lower() and len(word) > 0)
    if any(len(letter.lower()) != 1 or len(letter.upper()) != 1 for letter in text):
        return  # such a letter has no capital, or no small letter, of its own
    before, now = (use(text, return_offsets_mapping=True) for use in (tokenizer, wide))
    assert lower_ids(wide, now["input_ids"]) == before["input_ids"]
    assert now["offset_mapping"] == before["offset_mapping"]


def test_words_are_told_apart_by_how_they_are_written(tokenizer, wide):
    ids = {wide(word)["input_ids"][1] for word in ("oslo", "Oslo", "OSLO")}
    assert len(ids) == 3
    assert {wide(word)["input_ids"][1] for word in ("A", "a")} == set(wide.convert_tokens_to_ids(["A", "a"]))
    assert len({tokenizer(word)["input_ids"][1] for word in ("oslo", "Oslo", "OSLO")}) == 1
    assert sorted(wide.get_vocab().values()) == list(range(len(wide)))
    written = {wide.convert_ids_to_tokens(cased): way for cased, _, way in cased_words(wide)}
    assert [written[word] for word in ("Oslo", "OSLO", "A")] == [CAPITALISED, CAPITALS, CAPITALISED]
    assert wide.name_or_path == tokenizer.name_or_path


def test_it_is_the_same_once_saved(wide, tmp_path):
    wide.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert again(text)["input_ids"] == wide(text)["input_ids"]
    assert keeps_letter_case(again)
    assert (again.model_max_length, again.name_or_path) == (64, str(tmp_path))


def test_tokenizers_that_need_no_capital_letters_or_cannot_have_them_are_refused(tokenizer):
    cased = BertTokenizer(vocab=tokenizer.get_vocab() | {"Oslo": len(tokenizer)}, do_lower_case=False)
    assert not keeps_letter_case(tokenizer)
    assert not keeps_letter_case(cased)
    with pytest.raises(ValueError, match="reads capital letters already; leave the setting out"):
        with_letter_case(cased)
    backend = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match="made of Lowercase and BPE"):
        with_letter_case(PreTrainedTokenizerFast(tokenizer_object=backend))


def test_before_training_the_model_computes_what_it_computed(case_model, tokenizer):
    before = copy.deepcopy(case_model)
    wide = read_letter_case(case_model, tokenizer)
    assert read_letter_case(case_model, wide) is wide
    assert isinstance(case_model.get_input_embeddings(), CaseEmbedding)
    old, new = (use(TEXTS, return_tensors="pt", padding=True) for use in (tokenizer, wide))
    assert not torch.equal(old["input_ids"], new["input_ids"])
    assert torch.equal(case_model(**new).pooler_output, before(**old).pooler_output)


def test_a_model_without_the_setting_stays_as_it_is(model, tokenizer):
    assert read_letter_case(model, tokenizer) is tokenizer
    assert type(model.get_input_embeddings()) is nn.Embedding


def test_all_words_of_a_kind_learn_one_vector(case_model, trainer_of_rows):
    trainer = trainer_of_rows(case_model, num_train_epochs=3)
    trainer.train()
    table, rows = (
        case_model.get_input_embeddings(),
        case_model.state_dict()["encoder.embeddings.word_embeddings.weight"],
    )
    assert table.cases.norm(dim=1).min() > 1e-3
    assert torch.equal(rows[-2:], table.cases)
    assert len(rows) == case_model.config.encoder_config.vocab_size == len(trainer.processing_class) + 2
    for cased, word, way in cased_words(trainer.processing_class):
        assert torch.allclose(rows[cased] - rows[word], table.cases[way - 1], atol=1e-6)


def test_a_checkpoint_is_plain_and_answers_as_the_model_does(case_model, trainer_of_rows, tmp_path):
    trainer = trainer_of_rows(case_model, num_train_epochs=3)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    inputs = trainer.processing_class(TEXTS, return_tensors="pt", padding=True)
    expected = case_model.eval()(**inputs)
    opened = AutoModel.from_pretrained(tmp_path / "saved", trust_remote_code=True).eval()
    assert type(opened.get_input_embeddings()) is nn.Embedding
    own = AutoTokenizer.from_pretrained(tmp_path / "saved")(TEXTS, return_tensors="pt", padding=True)
    found = opened(**own)
    assert torch.equal(found.pooler_output, expected.pooler_output)
    assert torch.equal(found.logits["ner"], expected.logits["ner"])
    ask = pipeline_of_checkpoint(str(tmp_path / "saved"))
    capitals, small = (torch.tensor(ask(text)["embedding"]) for text in ("OSLO WINS", "oslo wins"))
    assert not torch.allclose(capitals, small, atol=1e-4)


@pytest.mark.parametrize("checkpoint", [2, 5])
def test_a_resumed_run_equals_the_uninterrupted_one(case_model, trainer_of_rows, tmp_path, checkpoint):
    other = copy.deepcopy(case_model)
    straight = trainer_of_rows(case_model, **EVERY_STEP)
    straight.train()
    resumed = trainer_of_rows(other, **EVERY_STEP | {"save_strategy": "no"})
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{checkpoint}"))
    weights = resumed.model.state_dict()
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert torch.equal(straight.model.get_input_embeddings().cases, resumed.model.get_input_embeddings().cases)


def test_the_best_checkpoint_is_the_model_at_the_end(case_model, trainer_of_rows):
    how = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    trainer = trainer_of_rows(case_model, num_train_epochs=6, learning_rate=0.1, **how)
    trainer.train()
    best = load_file(f"{trainer.state.best_model_checkpoint}/model.safetensors")
    assert trainer.state.best_global_step < trainer.state.max_steps
    assert torch.equal(best["encoder.embeddings.word_embeddings.weight"], case_model.get_input_embeddings().weight)


def test_training_goes_on_from_a_checkpoint(case_model, trainer_of_rows, tmp_path):
    first = trainer_of_rows(case_model)
    first.train()
    first.save_model(str(tmp_path / "saved"))
    loaded = pipeline_of_checkpoint(str(tmp_path / "saved"))
    assert type(loaded.model.get_input_embeddings()) is nn.Embedding
    second = trainer_of_rows(loaded.model)
    before = second.model.get_input_embeddings().cases.detach().clone()
    assert torch.equal(before, case_model.get_input_embeddings().cases)
    second.train()
    assert not torch.equal(second.model.get_input_embeddings().cases, before)
    assert len(second.processing_class) == len(first.processing_class)


def test_a_checkpoint_whose_embeddings_were_resized_is_refused(case_model, tokenizer, tmp_path):
    wide = read_letter_case(case_model, tokenizer)
    case_model.save_pretrained(tmp_path)
    opened = MTSBertModel.from_pretrained(tmp_path)
    opened.resize_token_embeddings(len(wide) + 1, mean_resizing=False)
    with pytest.raises(ValueError, match=f"has {len(wide) + 1} embeddings, and with `letter_case` it would have"):
        read_letter_case(opened, wide)


def test_some_texts_are_learned_without_their_capitals_whatever_is_beside_them(case_model, tokenizer):
    wide = read_letter_case(case_model, tokenizer)
    table = case_model.get_input_embeddings()
    table.cases.data += 1.0
    texts = [
        f"{name} {verb} {number}" for name in ("Oslo", "LIMA") for verb in ("wins", "joins") for number in range(40)
    ]
    alone = [wide(text, return_tensors="pt")["input_ids"] for text in texts]
    table.train()
    hidden = [torch.equal(table(ids), table(lower(wide, ids))) for ids in alone]
    assert 0.5 / HIDDEN_IN < sum(hidden) / len(hidden) < 2 / HIDDEN_IN
    together = wide([*texts, " ".join(texts[:3])], return_tensors="pt", padding=True)["input_ids"]
    for row, ids in zip(table(together), alone, strict=False):
        assert torch.equal(row[: ids.shape[1]], table(ids)[0])
    table.eval()
    assert not any(torch.equal(table(ids), table(lower(wide, ids))) for ids in alone)


def lower(wide, ids: torch.Tensor) -> torch.Tensor:
    return torch.tensor([lower_ids(wide, row) for row in ids.tolist()])


@pytest.mark.parametrize("role", ["embedding_reference", "teacher"])
def test_a_model_without_capital_letters_can_be_reference_and_teacher(
    role, model, case_model, tokenizer, trainer_of_rows, tmp_path
):
    model.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    trainer = trainer_of_rows(case_model, embedding_distillation=1.0, **{role: str(tmp_path / "plain")})
    reference = trainer.reference if role == "embedding_reference" else trainer.teacher.model
    old, new = (use(TEXTS, return_tensors="pt", padding=True) for use in (tokenizer, trainer.processing_class))
    assert torch.equal(reference.eval()(**new).pooler_output, model(**old).pooler_output)
    trainer.train()
    assert trainer.model.get_input_embeddings().cases.any()


def test_frozen_embeddings_learn_nothing_of_capital_letters_and_it_is_said(case_model, trainer_of_rows, caplog):
    trainer_of_rows(case_model, freeze_embeddings=True)
    assert "nothing is learned of capital letters (`letter_case`)" in caplog.text


@pytest.mark.filterwarnings("ignore::UserWarning")  # peft's
@pytest.mark.parametrize("flags", [{"lora_r": 4}, {"bitfit": True}], ids=["lora", "bitfit"])
def test_where_the_encoder_keeps_its_matrices_capital_letters_are_learned(case_model, trainer_of_rows, caplog, flags):
    trainer = trainer_of_rows(case_model, **EVERY_STEP | {"save_strategy": "no"}, **flags)
    table = case_model.get_input_embeddings()
    words = table.words.detach().clone()
    trainer.train()
    assert table.cases.abs().sum(-1).min() > 0
    assert torch.equal(table.words, words)
    assert "nothing is learned of capital letters" not in caplog.text


@pytest.mark.filterwarnings("ignore::UserWarning")  # peft's
def test_adapters_learn_capital_letters_after_a_run_that_froze_the_encoder(case_model, trainer_of_rows, caplog):
    trainer_of_rows(case_model, **EVERY_STEP | {"save_strategy": "no"}, freeze_encoder=True).train()
    caplog.clear()
    trainer_of_rows(case_model, **EVERY_STEP | {"save_strategy": "no"}, lora_r=4).train()
    assert case_model.get_input_embeddings().cases.abs().sum(-1).min() > 0
    assert "nothing is learned of capital letters" not in caplog.text


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_with_adapters_a_resumed_run_learns_the_same_of_capital_letters(case_model, trainer_of_rows, tmp_path):
    straight, resumed = copy.deepcopy(case_model), copy.deepcopy(case_model)
    trainer_of_rows(straight, **EVERY_STEP, lora_r=4).train()
    trainer_of_rows(resumed, **EVERY_STEP | {"save_strategy": "no"}, lora_r=4).train(
        resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3")
    )
    for name, weight in straight.named_parameters():
        assert torch.equal(weight, resumed.get_parameter(name)), name


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_adapters_that_are_saved_alone_leave_the_vectors_of_their_checkpoint(case_model, trainer_of_rows, tmp_path):
    first = trainer_of_rows(case_model)
    first.train()
    first.save_model(str(tmp_path / "base"))
    base = MTSBertModel.from_pretrained(tmp_path / "base")
    trainer = trainer_of_rows(base, lora_r=4, lora_merge=False)
    cases = base.get_input_embeddings().cases.detach().clone()
    trainer.train()
    assert cases.any()
    assert torch.equal(base.get_input_embeddings().cases, cases)
    trainer.save_model(str(tmp_path / "alone"))
    opened = load_pipeline(tmp_path / "alone")
    texts = ["Ada Perez joins NIMBUS", "oslo beat Lima"]
    found, expected = opened(texts), base.eval().as_pipeline(trainer.processing_class)(texts)
    assert [one["topic"]["label"] for one in found] == [one["topic"]["label"] for one in expected]
    assert torch.allclose(*(torch.tensor([one["embedding"] for one in many]) for many in (found, expected)), atol=1e-5)


def test_embeddings_that_the_user_froze_stay_frozen(case_model, trainer_of_rows):
    case_model.get_input_embeddings().weight.requires_grad_(False)
    trainer_of_rows(case_model).train()
    assert not case_model.get_input_embeddings().cases.any()


def test_a_tokenizer_with_more_words_than_the_encoder_is_refused(case_model, rows, tokenizer, tmp_path):
    more = BertTokenizer(vocab=tokenizer.get_vocab() | {"zebras": len(tokenizer)}, model_max_length=64)
    with pytest.raises(ValueError, match=f"tokens up to the id {len(tokenizer)}, and the encoder has embeddings for"):
        MTSBertTrainer(case_model, MTLTrainingArguments(str(tmp_path)), processing_class=more, train_dataset=rows)


def test_a_recipe_reads_capital_letters(recipe, tmp_path):
    metrics = main(
        ["--config", str(recipe(letter_case=True, do_eval=True, do_predict=True, embedding_distillation=1.0))]
    )
    assert "eval_ner_f1" in metrics
    assert keeps_letter_case(AutoTokenizer.from_pretrained(tmp_path / "run"))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["letter_case"] is True
    main(
        [
            "--config",
            str(recipe(encoder_name_or_path=None, model_name_or_path=str(tmp_path / "run"), output_dir=None)),
            "--output_dir",
            str(tmp_path / "second"),
        ]
    )
    assert json.loads((tmp_path / "second" / "config.json").read_text())["letter_case"] is True
    plain = recipe(output_dir=str(tmp_path / "plain"))
    main(["--config", str(plain)])
    with pytest.raises(ValueError, match=r"`letter_case` is True, and the checkpoint .* has None"):
        main(["--config", str(plain), "--model_name_or_path", str(tmp_path / "plain"), "--letter_case"])
