"""Tests that a checkpoint is a SentenceTransformer, and is still complete after that library has saved it."""

import copy
import json

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, RobertaConfig, RobertaModel, set_seed

from modeling_mtsbert import MTSBertModel
from mtsbert import MTLTrainingArguments, MTSBertTrainer
from tests.mtsbert.conftest import SMALL
from tests.test_doors import PYTHON_FILES, TEXT


TEXTS = [TEXT, "Oslo", "The final ends without a goal in Lima"]
SETTINGS = [  # pooling, whether the embedding is normalised, its size
    *(("mean", True, 32), ("mean", False, 32), ("cls", True, 32)),
    *(("mean", False, 8), ("mean", True, 8), ("max", True, 32)),
]

ENCODE = """
import json
import torch
from sentence_transformers import InputExample, SentenceTransformer
found = {{}}
for folder in {folders!r}:
    model = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    found[folder] = [model.max_seq_length, model.encode({texts!r}).tolist()]
with torch.no_grad():
    model[0].auto_model.encoder.embeddings.word_embeddings.weight.mul_(1.5)  # as if it had been trained
model.save_pretrained({again!r})
json.dump(found, open({answer!r}, "w"))
"""


def test_sentence_transformers_gives_the_same_embeddings_and_keeps_the_heads(
    encoder_folder, tasks, tokenizer, tmp_path, run_elsewhere
):
    expected = {}
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    for pooling, normalize, size in SETTINGS:
        set_seed(1)
        settings = {"pooling": pooling, "normalize": normalize, "embedding_size": size}
        model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks, **settings)
        folder = tmp_path / f"{pooling}_{normalize}_{size}"
        model.eval().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        expected[str(folder)] = model(**batch).pooler_output
    again, answer = tmp_path / "again", tmp_path / "answer.json"
    script = ENCODE.format(folders=list(expected), texts=TEXTS, again=str(again), answer=str(answer))
    run_elsewhere(script)
    for folder, (longest, embeddings) in json.loads(answer.read_text()).items():
        assert longest == tokenizer.model_max_length
        assert torch.allclose(torch.tensor(embeddings), expected[folder], atol=1e-5), folder
        assert len(embeddings[0]) == int(folder.rpartition("_")[2])
    assert sorted(path.name for path in again.glob("*.py")) == PYTHON_FILES
    saved = MTSBertModel.from_pretrained(again)
    assert torch.allclose(saved.get_input_embeddings().weight, 1.5 * model.get_input_embeddings().weight)
    for name, weight in model.heads.state_dict().items():
        assert torch.equal(saved.heads.state_dict()[name], weight), name


@pytest.mark.parametrize("view", ["AutoModelForSequenceClassification", "AutoModelForTokenClassification"])
def test_a_saved_view_is_a_sentence_transformer_too(model, tmp_path, view):
    import modeling_mtsbert

    model.save_pretrained(tmp_path / "whole")
    view_class = getattr(modeling_mtsbert, view.replace("AutoModel", "MTSBert"))
    view_class.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "view")
    for name in ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"):
        assert (tmp_path / "view" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_prompts_and_similarity_of_sentence_transformers_are_kept(checkpoint, tmp_path):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    settings = {"prompts": {"query": "oslo wins "}, "similarity_fn_name": "dot"}
    model = library.SentenceTransformer(str(checkpoint), trust_remote_code=True, device="cpu", **settings)
    model.save_pretrained(str(tmp_path / "saved"))
    MTSBertModel.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "saved")  # over itself
    again = library.SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True, device="cpu")
    assert (again.prompts["query"], again.similarity_fn_name) == ("oslo wins ", "dot")
    with_prompt, without = again.encode_query(TEXTS), again.encode(TEXTS)
    assert with_prompt == pytest.approx(model.encode_query(TEXTS), abs=1e-6)
    assert abs(with_prompt - without).max() > 1e-3
    plain = library.SentenceTransformer(str(checkpoint), trust_remote_code=True, device="cpu")
    assert (plain.prompts["query"], plain.similarity_fn_name) == ("", "cosine")


def test_long_texts_are_cut_where_the_tokenizer_has_no_limit(encoder_folder, tasks, tokenizer, examples, tmp_path):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    endless = copy.deepcopy(tokenizer)
    endless.model_max_length = int(1e30)  # as of many RoBERTa-like encoders, which keep two positions back
    config = RobertaConfig(**SMALL, vocab_size=len(tokenizer), pad_token_id=0, max_position_embeddings=42)
    RobertaModel(config).save_pretrained(tmp_path / "encoder")
    model = MTSBertModel.from_encoder(str(tmp_path / "encoder"), tasks=tasks)
    args = MTLTrainingArguments(str(tmp_path / "run"), max_steps=1, precision="fp32", disable_tqdm=True)
    trainer = MTSBertTrainer(model, args, train_dataset=Dataset.from_list(examples), processing_class=endless)
    trainer.save_model()
    saved = library.SentenceTransformer(str(tmp_path / "run"), trust_remote_code=True, device="cpu")
    assert saved.encode("oslo " * 100).shape == (32,)
    assert saved.encode("oslo " * 100) == pytest.approx(saved.encode("oslo " * 40), abs=1e-6)


@pytest.mark.parametrize("normalizes", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_a_new_model_embeds_as_the_sentence_transformer_that_it_starts_from(
    encoder_folder, tasks, tmp_path, pooling, normalizes
):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    encoder = Transformer(str(encoder_folder), max_seq_length=8)
    modules = [encoder, Pooling(32, pooling_mode=pooling), *([Normalize()] if normalizes else [])]
    settings = {"prompts": {"query": "oslo wins "}, "similarity_fn_name": "dot"}
    theirs = library.SentenceTransformer(modules=modules, device="cpu", **settings)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    model = MTSBertModel.from_encoder(str(tmp_path / "theirs"), tasks=tasks)
    with torch.no_grad():
        batch = AutoTokenizer.from_pretrained(tmp_path / "theirs")(TEXTS, padding=True, truncation=True)
        found = model.eval()(**batch.convert_to_tensors("pt")).pooler_output
    assert found.numpy() == pytest.approx(theirs.encode(TEXTS), abs=1e-6)
    model.save_pretrained(tmp_path / "ours")
    MTSBertModel.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "again")
    AutoTokenizer.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "again")
    again = library.SentenceTransformer(str(tmp_path / "again"), trust_remote_code=True, device="cpu")
    assert again.encode_query(TEXTS) == pytest.approx(theirs.encode_query(TEXTS), abs=1e-6)
    assert (again.max_seq_length, again.similarity_fn_name) == (8, "dot")


def test_prompts_of_an_encoder_do_not_stay_where_a_model_of_another_one_is_saved(encoder_folder, tasks, tmp_path):
    prompting = {"sentence_transformers": {"prompts": {"query": "query: "}}}
    for settings, prompts in ((prompting, {"query": "query: "}), ({}, None)):
        MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks, **settings).save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "config_sentence_transformers.json").read_text())
        assert (saved.get("prompts"), saved["similarity_fn_name"]) == (prompts, "cosine")
