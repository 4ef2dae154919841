"""Tests adapters that are saved alone: what is in their folder, and that every door answers as the trained model."""

import copy
import hashlib
import json

import pytest
import spacy
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification, pipeline

from modeling_mtsbert import MTSBertModel
from mtsbert.adapters.lora import add_adapters
from mtsbert.adapters.saved import save_alone, use_adapter
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.commands.edit import main as edit
from mtsbert.commands.export import main as export
from mtsbert.commands.tune_thresholds import main as tune
from mtsbert.exports.pipeline import load_pipeline
from mtsbert.input_arguments import ModelArguments
from mtsbert.network.starting_point import load_model, resolve_name
from mtsbert.spacy_component import MTSBertComponent
from mtsbert.training.hub import files_of_model
from mtsbert.training.output import save_run
from mtsbert.training.trainer import MTSBertTrainer
from tests.conftest import MINILM


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning:transformers")  # peft's
ALONE = {"lora_r": 4, "learning_rate": 1e-2, "lora_merge": False, "num_train_epochs": 3}
TEXTS = ["Oslo wins the race", "Ada Perez joins Nimbus Labs", ("Lima hosts the race", "Oslo beat Lima")]


@pytest.fixture
def base(model, tokenizer, tmp_path):
    model.config.tasks["topic"]["temperature"] = 2.0
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapt(base, features, trainer_of, tmp_path):
    """Trains an adapter on the base; returns its folder and the trained model."""

    def train(name: str = "one", *, resume=None, **arguments):
        of = MTSBertModel.from_pretrained(base)
        trainer = trainer_of(of=of, eval_dataset=features, output_dir=str(tmp_path / name), **ALONE | arguments)
        trainer.train(resume_from_checkpoint=resume and str(resume))
        save_run(trainer, {}, trained=True)
        trainer.create_model_card()
        return tmp_path / name, trainer.model.eval()

    return train


def digest(folder) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_the_folder_has_adapters_and_heads_alone_and_the_base_is_untouched(adapt, base):
    before = digest(base)
    folder, _ = adapt()
    assert digest(base) == before
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md"} <= {
        *files_of_model(folder)
    }
    assert not {"model.safetensors", "config.json"} & {path.name for path in folder.iterdir()}
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert (folder / "adapter_model.safetensors").stat().st_size < (base / "model.safetensors").stat().st_size / 4
    assert (
        "This is an adapter (LoRA): it is opened on the mtsbert checkpoint base" in (folder / "README.md").read_text()
    )


@pytest.mark.weights
def test_another_adapter_on_minilm_is_small(tasks, tmp_path):
    model = MTSBertModel.from_encoder(resolve_name(MINILM), tasks=tasks)
    model.config.name_or_path = "base"
    add_adapters(model, MTLTrainingArguments("unused", lora_r=8))
    save_alone(model, tmp_path / "adapter")
    assert 300_000 < sum(path.stat().st_size for path in (tmp_path / "adapter").glob("*.*")) < 600_000


def test_every_door_gives_the_answers_of_the_trained_model(adapt, tokenizer, close):
    folder, trained = adapt()
    expected = trained.as_pipeline(tokenizer)(TEXTS)
    assert not close(load_pipeline(trained.config.name_or_path)(TEXTS), expected, 1e-3)
    assert close(load_pipeline(folder)(TEXTS), expected, 1e-5)
    found = pipeline("multi-task", model=str(folder), trust_remote_code=True)(TEXTS)
    assert close(found, expected, 1e-5)
    inputs = tokenizer(TEXTS[:2], return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = trained(**inputs).logits
        by_auto = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()(**inputs).logits
        by_peft = PeftModel.from_pretrained(MTSBertModel.from_pretrained(trained.config.name_or_path), folder)
        by_peft = by_peft.eval()(**inputs).logits
        merged = PeftModel.from_pretrained(MTSBertModel.from_pretrained(trained.config.name_or_path), folder)
        merged = merged.merge_and_unload().eval()(**inputs).logits
    for found in (by_auto, by_peft, merged):
        assert all(torch.allclose(found[task], value, atol=1e-5) for task, value in logits.items())
    for kind, task in ((AutoModelForSequenceClassification, "topic"), (AutoModelForTokenClassification, "ner")):
        view = kind.from_pretrained(folder, trust_remote_code=True).eval()
        temperature = trained.config.tasks[task].get("temperature", 1.0)
        assert torch.allclose(view(**inputs).logits * temperature, logits[task], atol=1e-5)


def test_sentence_transformers_gives_the_embeddings(adapt, tokenizer):
    folder, trained = adapt()
    found = SentenceTransformer(str(folder), trust_remote_code=True).encode(TEXTS[:2], convert_to_tensor=True)
    expected = [answer["embedding"] for answer in trained.as_pipeline(tokenizer)(TEXTS[:2])]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-5)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_an_export_has_the_adapter_merged(adapt, tokenizer, close, tmp_path, runtime):
    folder, trained = adapt()
    export(["--model", str(folder), "--output", str(tmp_path / "export"), "--format", runtime])
    ask = load_pipeline(tmp_path / "export")
    assert close(ask(TEXTS), trained.as_pipeline(tokenizer)(TEXTS), 1e-4)
    with pytest.raises(ValueError, match="An export has its weights merged"):
        use_adapter(ask, folder)


def test_the_encoder_is_saved_with_the_adapter_merged(adapt, tokenizer, tmp_path):
    folder, trained = adapt()
    export(["--model", str(folder), "--output", str(tmp_path / "encoder"), "--encoder"])
    saved = AutoModel.from_pretrained(tmp_path / "encoder").state_dict()
    expected = {name: weight for name, weight in trained.state_dict().items() if name.startswith("encoder.")}
    assert {name.removeprefix("encoder.") for name in expected} <= saved.keys()  # which has a pooler as well
    assert all(torch.allclose(saved[name.removeprefix("encoder.")], expected[name], atol=1e-6) for name in expected)


def test_spacy_has_the_answers(adapt, tokenizer):
    folder, trained = adapt()
    nlp = spacy.blank("en")
    found = MTSBertComponent(str(folder))(nlp(TEXTS[1])).cats
    assert found == pytest.approx(trained.as_pipeline(tokenizer)(TEXTS[1])["topic"]["scores"], abs=1e-5)


def test_thresholds_have_no_place_in_an_adapter(adapt, news_file):
    folder, _ = adapt()
    with pytest.raises(ValueError, match=r"thresholds are written into its config\.json"):
        tune(["--model", str(folder), "--data", str(news_file), "--target", "f1"])


def test_scores_are_calibrated_as_those_of_the_base(adapt):
    _, trained = adapt()
    assert trained.config.tasks["topic"]["temperature"] == 2.0


def test_a_pipeline_changes_from_one_adapter_to_another_and_back(adapt, base, tokenizer, close):
    (one, first), (other, second) = adapt("one"), adapt("other", num_train_epochs=6)
    expected = {one: first.as_pipeline(tokenizer)(TEXTS), other: second.as_pipeline(tokenizer)(TEXTS)}
    expected[None] = load_pipeline(base)(TEXTS)
    assert not close(expected[one], expected[other], 1e-3)
    ask = load_pipeline(base)
    for adapter in (None, one, other, one, None, other, None, one):
        use_adapter(ask, adapter)
        assert close(ask(TEXTS), expected[adapter], 1e-5), adapter
    ask = load_pipeline(one)  # from an adapter to another
    for adapter in (other, None, one):
        use_adapter(ask, adapter)
        assert close(ask(TEXTS), expected[adapter], 1e-5), adapter


def test_the_resumed_run_saves_the_same_adapter(adapt, tmp_path, tokenizer, close):
    steps = {"save_strategy": "steps", "save_steps": 1}
    straight, _ = adapt("straight", **steps)
    folder, trained = adapt("stopped", **steps)
    assert close(load_pipeline(folder / "checkpoint-3")(TEXTS), trained.as_pipeline(tokenizer)(TEXTS), 1e-5)  # merged
    for name in ("checkpoint-2", "checkpoint-3", "adapter_model.safetensors", "adapter_config.json"):
        (folder / name).rename(tmp_path / name)
    adapt("stopped", resume=folder / "checkpoint-1", **steps)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes() == (straight / name).read_bytes()


def test_a_model_that_is_no_saved_checkpoint_is_refused(trainer_of, model, adapt, base):
    with pytest.raises(ValueError, match=r"starts from '.*encoder.*'. Train such a checkpoint first"):
        trainer_of(of=model, **ALONE)
    changed = MTSBertModel.from_pretrained(base)
    changed.rename_labels("topic", {"Sports": "Sport"})
    with pytest.raises(ValueError, match=r"the tasks \['topic'\] of this run differ"):
        trainer_of(of=changed, **ALONE)


def test_a_folder_has_one_kind_of_model(adapt, base, trainer_of):
    folder, _ = adapt()
    with pytest.raises(ValueError, match=r"has the adapter of another run \(adapter_config\.json\)"):
        trainer_of(output_dir=str(folder))
    with pytest.raises(ValueError, match=r"has the whole checkpoint of another run \(model\.safetensors\)"):
        trainer_of(of=MTSBertModel.from_pretrained(base), output_dir=str(base), **ALONE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lora_merge": False}, "`lora_merge` need `lora_r`"),
        ({"lora_merge": False, "lora_r": 4, "push_to_hub": True}, "Set `hub_strategy: end`"),
    ],
)
def test_flags_that_cannot_be_are_refused(trainer_of, arguments, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(**arguments)


def test_what_is_no_adapter_of_the_model_is_refused(adapt, base, tmp_path, layered_model, tokenizer):
    folder, _ = adapt()
    ask = load_pipeline(base)
    with pytest.raises(ValueError, match=r"is no adapter: it has no adapter_config\.json"):
        use_adapter(ask, base)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"modules_to_save": ["heads.mood"]}))
    with pytest.raises(ValueError, match=r"The adapter '.*one' has \['heads.mood'\], and the model \['heads."):
        use_adapter(ask, folder)
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="is an adapter that does not say for which checkpoint"):
        load_pipeline(folder)
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(folder)}))
    with pytest.raises(ValueError, match=r"is an adapter for another adapter, '.*one'"):
        load_pipeline(folder)
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "nowhere/to-be"}))
    with pytest.raises(ValueError, match="No checkpoint found under 'nowhere/to-be'"):
        load_pipeline(folder)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: get_peft_model(model, LoraConfig(target_modules=["query"])),
        lambda model: model.add_adapter(LoraConfig(target_modules=["query"])) or model,
        lambda model: (
            setattr(model, "encoder", get_peft_model(model.encoder, LoraConfig(target_modules=["query"]))) or model
        ),
    ],
    ids=["get_peft_model", "add_adapter", "encoder"],
)
def test_adapters_that_peft_put_in_are_refused_and_the_way_is_named(trainer_of, model, wrap):
    with pytest.raises(ValueError, match=r"adapters that peft put in .* set `lora_r`"):
        trainer_of(of=wrap(copy.deepcopy(model)))


def test_a_model_that_has_changed_since_it_was_loaded_is_refused(trainer_of, base):
    model = MTSBertModel.from_pretrained(base)
    trainer_of(of=model).train()
    with pytest.raises(ValueError, match=r"has other weights than that checkpoint by now\. Save it"):
        trainer_of(of=model, **ALONE)
    model.save_pretrained(base.parent / "saved")
    trainer_of(of=MTSBertModel.from_pretrained(base.parent / "saved"), **ALONE)


def test_a_run_starts_from_an_adapter_as_from_a_checkpoint(adapt, close):
    folder, trained = adapt()
    with pytest.raises(ValueError, match="merge them first"):
        MTSBertTrainer(MTSBertModel.from_pretrained(folder))
    started = load_model(ModelArguments(model_name_or_path=str(folder)), trained.config.tasks)
    assert started.state_dict().keys() == trained.state_dict().keys()
    for name, weight in trained.state_dict().items():
        assert torch.allclose(started.state_dict()[name], weight, atol=1e-6), name
    assert all(weight.requires_grad for weight in started.parameters())


def test_an_edited_adapter_is_a_checkpoint(adapt, tokenizer, close, tmp_path):
    folder, trained = adapt()
    edit(["--model", str(folder), "--output", str(tmp_path / "edited"), "--rename_task", "topic", "subject"])
    found = load_pipeline(tmp_path / "edited")(TEXTS[0])
    assert close(found["subject"], trained.as_pipeline(tokenizer)(TEXTS[0])["topic"], 1e-5)
    assert (tmp_path / "edited" / "model.safetensors").is_file()
    assert not (tmp_path / "edited" / "adapter_config.json").exists()
