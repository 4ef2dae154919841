"""Tests adapters that are saved alone: what is in their folder, and that every door answers as the trained model."""

import copy
import hashlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import spacy
import torch
from datasets import concatenate_datasets
from packaging.version import Version
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load, save
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification, pipeline
from transformers.integrations.peft import MIN_PEFT_VERSION

from modeling_mtsbert import MTSBertModel
from mtsbert.adapters.lora import add_adapters
from mtsbert.adapters.saved import save_alone, use_adapter
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.commands.edit import main as edit
from mtsbert.commands.export import main as export
from mtsbert.commands.tune_thresholds import main as tune
from mtsbert.exports.pipeline import load_pipeline
from mtsbert.input_arguments import ModelArguments
from mtsbert.network.adapters import merge_adapters
from mtsbert.network.embedders import OURS, kind_of
from mtsbert.network.starting_point import load_model, resolve_name
from mtsbert.spacy_component import MTSBertComponent
from mtsbert.training.hub import files_of_model
from mtsbert.training.output import save_run
from tests.conftest import MINILM


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning:transformers")  # peft's
by_transformers = pytest.mark.skipif(
    Version(version("peft")) < Version(MIN_PEFT_VERSION),
    reason=f"transformers opens adapters with peft {MIN_PEFT_VERSION} or newer",
)
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

    def train(name: str | Path = "one", *, of=base, resume=None, eval_dataset=features, **arguments):
        of = MTSBertModel.from_pretrained(of)
        trainer = trainer_of(of=of, eval_dataset=eval_dataset, output_dir=str(tmp_path / name), **ALONE | arguments)
        trainer.train(resume_from_checkpoint=resume and str(resume))
        save_run(trainer, {}, trained=True)
        trainer.create_model_card()
        return tmp_path / name, trainer.model.eval()

    return train


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> SimpleNamespace:
    return SimpleNamespace(folder=tmp_path_factory.mktemp("kept"), model=None)


@pytest.fixture
def adapted(kept, request):
    """The folder of an adapter that all tests read and none changes, and the trained model."""
    if kept.model is None:
        shutil.copytree(request.getfixturevalue("base"), kept.folder / "base")
        _, kept.model = request.getfixturevalue("adapt")(kept.folder / "one", of=kept.folder / "base")
    return kept.folder / "one", copy.deepcopy(kept.model)


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
    MTSBertModel.from_encoder(resolve_name(MINILM), tasks=tasks).save_pretrained(tmp_path / "base")
    model = MTSBertModel.from_pretrained(tmp_path / "base")
    add_adapters(model, MTLTrainingArguments("unused", lora_r=8))
    save_alone(model, tmp_path / "adapter")
    assert 300_000 < sum(path.stat().st_size for path in (tmp_path / "adapter").glob("*.*")) < 600_000


def test_our_doors_and_those_of_peft_give_the_answers_of_the_trained_model(adapted, tokenizer, close):
    folder, trained = adapted
    expected = trained.as_pipeline(tokenizer)(TEXTS)
    assert not close(load_pipeline(trained.config.name_or_path)(TEXTS), expected, 1e-3)
    assert close(load_pipeline(folder)(TEXTS), expected, 1e-5)
    for merges in (False, True):
        model = PeftModel.from_pretrained(MTSBertModel.from_pretrained(trained.config.name_or_path), folder)
        model = model.merge_and_unload() if merges else model.base_model.model
        assert close(model.eval().as_pipeline(tokenizer)(TEXTS), expected, 1e-5)


@by_transformers
def test_the_doors_of_transformers_give_the_answers_of_the_trained_model(adapted, tokenizer, close):
    folder, trained = adapted
    expected = trained.as_pipeline(tokenizer)(TEXTS)
    assert close(pipeline("multi-task", model=str(folder), trust_remote_code=True)(TEXTS), expected, 1e-5)
    inputs = tokenizer(TEXTS[:2], return_tensors="pt", padding=True)
    logits = trained(**inputs).logits
    found = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()(**inputs).logits
    assert all(torch.allclose(found[task], value, atol=1e-5) for task, value in logits.items())
    for kind, task in ((AutoModelForSequenceClassification, "topic"), (AutoModelForTokenClassification, "ner")):
        view = kind.from_pretrained(folder, trust_remote_code=True).eval()
        temperature = trained.config.tasks[task].get("temperature", 1.0)
        assert torch.allclose(view(**inputs).logits * temperature, logits[task], atol=1e-5)


@by_transformers
def test_sentence_transformers_gives_the_embeddings(adapted, tokenizer):
    folder, trained = adapted
    found = SentenceTransformer(str(folder), trust_remote_code=True).encode(TEXTS[:2], convert_to_tensor=True)
    expected = [answer["embedding"] for answer in trained.as_pipeline(tokenizer)(TEXTS[:2])]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-5)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_an_export_has_the_adapter_merged(adapted, tokenizer, close, tmp_path, runtime):
    folder, trained = adapted
    export(["--model", str(folder), "--output", str(tmp_path / "export"), "--format", runtime])
    ask = load_pipeline(tmp_path / "export")
    assert close(ask(TEXTS), trained.as_pipeline(tokenizer)(TEXTS), 1e-4)
    with pytest.raises(ValueError, match="An export has its weights merged"):
        use_adapter(ask, folder)


def test_the_encoder_is_saved_with_the_adapter_merged(adapted, tokenizer, tmp_path):
    folder, trained = adapted
    export(["--model", str(folder), "--output", str(tmp_path / "encoder"), "--encoder"])
    saved = AutoModel.from_pretrained(tmp_path / "encoder").state_dict()
    expected = {name: weight for name, weight in trained.state_dict().items() if name.startswith("encoder.")}
    assert {name.removeprefix("encoder.") for name in expected} <= saved.keys()  # which has a pooler as well
    assert all(torch.allclose(saved[name.removeprefix("encoder.")], expected[name], atol=1e-6) for name in expected)


def test_spacy_has_the_answers(adapted, tokenizer):
    folder, trained = adapted
    nlp = spacy.blank("en")
    found = MTSBertComponent(str(folder))(nlp(TEXTS[1])).cats
    assert found == pytest.approx(trained.as_pipeline(tokenizer)(TEXTS[1])["topic"]["scores"], abs=1e-5)


@pytest.mark.parametrize("uses", ["one", "another", None])
def test_a_saved_spacy_pipeline_answers_with_the_adapter_in_use(adapt, tmp_path, uses):
    folders = {"one": adapt()[0], "another": adapt("another", learning_rate=3e-2)[0], None: None}
    nlp = spacy.blank("en")
    ask = nlp.add_pipe("mtsbert", config={"model": str(folders["one"])}).pipeline
    use_adapter(ask, folders[uses])
    expected = nlp(TEXTS[1]).cats
    nlp.to_disk(tmp_path / "saved")
    assert nlp(TEXTS[1]).cats == expected
    assert not (tmp_path / "saved" / "mtsbert" / "adapter_config.json").exists()
    assert spacy.load(tmp_path / "saved")(TEXTS[1]).cats == pytest.approx(expected, abs=1e-5)
    use_adapter(ask, folders["one" if uses is None else None])  # the component's own model still has its adapters
    assert nlp(TEXTS[1]).cats != pytest.approx(expected, abs=1e-5)


def test_an_adapter_teaches(adapted, features, trainer_of, tokenizer, tmp_path):
    folder, trained = adapted
    trainer = trainer_of(
        teacher=str(folder), feature_cache_dir=str(tmp_path / "cache"), output_dir=str(tmp_path / "t")
    )
    inputs = tokenizer(TEXTS[:2], padding=True, return_tensors="pt")
    with torch.no_grad():
        taught, expected = (model(**inputs).logits["topic"] for model in (trainer.teacher.model, trained))
    assert torch.allclose(taught, expected, atol=1e-5)


def test_thresholds_have_no_place_in_an_adapter(adapted, news_file):
    folder, _ = adapted
    with pytest.raises(ValueError, match=r"thresholds are written into its config\.json"):
        tune(["--model", str(folder), "--data", str(news_file), "--target", "f1"])


def test_scores_are_calibrated_as_those_of_the_base(adapt, base, features, trainer_of):
    rows = concatenate_datasets([features] * 40)  # enough to calibrate by
    folder, trained = adapt(eval_dataset=rows)
    assert trained.config.tasks["topic"]["temperature"] == 2.0
    assert load_pipeline(folder).model.config.tasks["topic"]["temperature"] == 2.0
    trainer = trainer_of(of=MTSBertModel.from_pretrained(base), eval_dataset=rows, **ALONE)
    with pytest.raises(ValueError, match="keeps the scores of the checkpoint that the adapter is for"):
        trainer.calibrate()
    whole = trainer_of(of=MTSBertModel.from_pretrained(base), eval_dataset=rows)
    whole.train()
    assert whole.tasks["topic"]["temperature"] != 2.0


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


def test_a_model_that_is_no_saved_checkpoint_is_refused(trainer_of, model):
    with pytest.raises(ValueError, match=r"starts from '.*encoder.*'. Train such a checkpoint first"):
        trainer_of(of=model, **ALONE)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda model: model.rename_labels("topic", {"Sports": "Sport"}),
            r"\['topic.labels'\] .* \['Business', 'Sport'\]",
        ),
        (lambda model: model.config.tasks["topic"].update(min_score=0.9), r"\['topic.min_score'\] .*: 0.9, not None"),
        (lambda model: model.config.tasks["topic"].pop("temperature"), r"\['topic.temperature'\] .*: None, not 2.0"),
        (lambda model: model.config.tasks["ner"].update(type="sequence_classification"), r"\['ner.type'\]"),
        (lambda model: setattr(model.config, "pooling", "cls"), r"\['pooling'\] are others: cls, not mean"),
        (lambda model: setattr(model.config, "normalize", False), r"\['normalize'\]"),
        (lambda model: model.set_embedding_size(16), r"\['embedding_size'\]"),
    ],
)
def test_settings_that_the_base_does_not_have_are_refused(trainer_of, base, change, named):
    model = MTSBertModel.from_pretrained(base)
    change(model)
    with pytest.raises(ValueError, match=rf"In this run {named}"):
        trainer_of(of=model, train_dataset=None, **ALONE)


def test_a_folder_has_one_kind_of_model(adapted, base, trainer_of):
    folder, _ = adapted
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


def test_what_is_no_adapter_is_refused_and_the_pipeline_answers_as_before(adapt, base, close):
    folder, _ = adapt()
    ask = load_pipeline(base)
    expected = ask(TEXTS)
    weights = (folder / "adapter_model.safetensors").read_bytes()
    for content, message in [
        (None, r"is no adapter that can be opened: .*adapter_model\.safetensors"),
        (weights[:1000], "is no adapter that can be opened"),
        (without(weights, "heads.topic"), r"which has \(2,\) where the adapter has nothing: heads\.topic\."),
        (without(weights, "layer.1"), r"where the adapter has nothing: encoder\.encoder\.layer\.1\."),
    ]:
        (folder / "adapter_model.safetensors").unlink()
        if content is not None:
            (folder / "adapter_model.safetensors").write_bytes(content)
        for _ in range(2):
            with pytest.raises(ValueError, match=message):
                use_adapter(ask, folder)
        assert close(ask(TEXTS), expected, 0.0)
        if content is None:
            (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    use_adapter(ask, folder)
    assert not close(ask(TEXTS), expected, 1e-3)


def without(weights: bytes, name: str) -> bytes:
    return save({key: value for key, value in load(weights).items() if name not in key})


def test_an_adapter_on_another_model_is_refused(adapt, base, tokenizer):
    folder, _ = adapt()
    for change, named in [
        (lambda model: model.rename_labels("topic", {"Business": "Sports", "Sports": "Business"}), "heads differ"),
        (lambda model: model.encoder.embeddings.word_embeddings.weight.data.mul_(1.01), "weights differ"),
        (lambda model: setattr(model.config, "pooling", "max"), "pooling differ"),
    ]:
        model = MTSBertModel.from_pretrained(base)
        change(model.requires_grad_(False))
        with pytest.raises(ValueError, match=rf"is for another model.*: {named}. The one that it is for was 'base'"):
            use_adapter(model.eval().as_pipeline(tokenizer), folder)
    model.save_pretrained(base)  # the folder now has another checkpoint
    with pytest.raises(ValueError, match="is for another model"):
        load_pipeline(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_model_name_or_path": None}, "is an adapter that does not say for which checkpoint"),
        (
            {"base_model_name_or_path": "nowhere/to-be"},
            "is an adapter, and the checkpoint .* 'nowhere/to-be'",
        ),
        ({"base_model_name_or_path": "/no/where"}, r"'.*one' is an adapter, .* Correct `base_model_name_or_path`"),
        ({"modules_to_save": ["heads.topic"]}, r"does not fit the model, it has .* and not: heads\.ner"),
        ({"bias": "all"}, "is no LoRA with `bias: none`"),
        ("itself", r"is an adapter for another adapter, '.*one'"),
        ("broken", r"The adapter_config\.json of '.*one' is broken"),
    ],
)
def test_a_config_that_cannot_be_is_refused(adapted, tmp_path, change, message):
    folder = shutil.copytree(adapted[0], tmp_path / "one")
    path = folder / "adapter_config.json"
    if change == "broken":
        path.write_text("{")
    else:
        changed = {"base_model_name_or_path": str(folder)} if change == "itself" else change
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(ValueError, match=message):
        load_pipeline(folder)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: get_peft_model(model, LoraConfig(target_modules=["query"])),
        pytest.param(
            lambda model: model.add_adapter(LoraConfig(target_modules=["query"])) or model, marks=by_transformers
        ),
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
    with pytest.raises(ValueError, match=r"has other weights or layers than that checkpoint by now\. Save it"):
        trainer_of(of=model, **ALONE)
    model.save_pretrained(base.parent / "saved")
    trainer_of(of=MTSBertModel.from_pretrained(base.parent / "saved"), **ALONE)


def test_a_run_starts_from_an_adapter_as_from_a_checkpoint(adapted, trainer_of, tmp_path):
    folder, trained = adapted
    with pytest.raises(ValueError, match=r"merge them \(`mtsbert.merge_adapters`\)"):
        trainer_of(of=load_pipeline(folder).model)
    of_run = load_model(ModelArguments(model_name_or_path=str(folder)), trained.config.tasks)
    by_hand = merge_adapters(load_pipeline(folder).model)
    by_peft = merge_adapters(
        PeftModel.from_pretrained(MTSBertModel.from_pretrained(trained.config.name_or_path), folder)
    )
    for started in (of_run, by_hand, by_peft):
        assert started.state_dict().keys() == trained.state_dict().keys()
        for name, weight in trained.state_dict().items():
            assert torch.allclose(started.state_dict()[name], weight, atol=1e-6), name
        assert all(weight.requires_grad for weight in started.parameters())
        with pytest.raises(ValueError, match="starts from 'weights that are in no folder"):
            trainer_of(of=started, output_dir=str(tmp_path / "onwards"), **ALONE)
        trainer_of(of=started, output_dir=str(tmp_path / "onwards")).train()


def test_a_wrapped_encoder_is_merged(model, tokenizer):
    inputs = tokenizer(TEXTS[:2], return_tensors="pt", padding=True)
    model.encoder = get_peft_model(model.encoder, LoraConfig(target_modules=["query"], init_lora_weights=False))
    expected = model.eval()(**inputs).pooler_output
    merged = merge_adapters(model)
    assert torch.allclose(merged(**inputs).pooler_output, expected, atol=1e-5)
    assert not [name for name in merged.state_dict() if "lora" in name or "base_" in name]


def test_tasks_are_edited_once_the_adapter_is_merged(adapted):
    folder, _ = adapted
    model = load_pipeline(folder).model
    for change in (
        lambda: model.rename_task("topic", "subject"),
        lambda: model.add_task("new", {"type": "pair_similarity"}),
    ):
        with pytest.raises(ValueError, match=r"Merge it first \(`mtsbert\.merge_adapters`\)"):
            change()


def test_heads_that_were_frozen_before_are_warned_about(trainer_of, model, caplog):
    model.heads.requires_grad_(False)
    trainer_of(of=model, lora_r=4)
    assert "All heads were frozen" in caplog.text


def test_an_adapter_of_another_base_is_not_resumed_from(adapt, base, trainer_of, tmp_path):
    folder, _ = adapt(save_strategy="steps", save_steps=1)
    other = MTSBertModel.from_pretrained(base)
    other.encoder.embeddings.word_embeddings.weight.data.mul_(1.01)
    other.save_pretrained(tmp_path / "other")
    trainer = trainer_of(
        of=MTSBertModel.from_pretrained(tmp_path / "other"), output_dir=str(tmp_path / "two"), **ALONE
    )
    with pytest.raises(ValueError, match="the model has other weights or layers than that checkpoint"):
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-1"))


def test_a_folder_may_have_any_name(adapt):
    folder, _ = adapt("checkpoints")
    assert (folder / "adapter_model.safetensors").is_file()
    folder, _ = adapt("checkpoint-7")
    assert (folder / "adapter_model.safetensors").is_file()


def test_a_retrained_adapter_is_read_again(adapt, tokenizer, close):
    folder, _ = adapt()
    ask = load_pipeline(folder)
    num = len(ask.model.peft_config)
    use_adapter(ask, f"{folder}/")  # the same
    assert len(ask.model.peft_config) == num
    _, trained = adapt(num_train_epochs=6)
    use_adapter(ask, folder)
    assert close(ask(TEXTS), trained.as_pipeline(tokenizer)(TEXTS), 1e-5)


def test_embeddings_are_compared_and_held_by_an_adapter(adapted, base, trainer_of, tmp_path):
    folder, trained = adapted
    assert kind_of(str(folder)) == OURS
    trainer = trainer_of(
        of=MTSBertModel.from_pretrained(base), output_dir=str(tmp_path / "held"), embedding_distillation=1.0,
        embedding_reference=str(folder),
    )  # fmt: skip
    for name, weight in trained.encoder.state_dict().items():
        if "base_layer" not in name and "lora" not in name:
            assert torch.equal(weight, trainer.reference.encoder.state_dict()[name])


def test_what_is_pushed_is_not_for_a_folder_of_this_machine(adapt, base, trainer_of, tmp_path):
    flags = {"push_to_hub": True, "hub_strategy": "end", "hub_model_id": "me/one"}
    with pytest.raises(ValueError, match="which nobody has who opens it from the Hub"):
        trainer_of(of=MTSBertModel.from_pretrained(base), **ALONE | flags)
    trainer = trainer_of(of=MTSBertModel.from_pretrained(base), output_dir=str(tmp_path / "one"), **ALONE)
    with pytest.raises(ValueError, match="which nobody has who opens it from the Hub"):
        trainer.push_to_hub()


def test_an_edited_adapter_is_a_checkpoint(adapted, tokenizer, close, tmp_path):
    folder, trained = adapted
    edit(["--model", str(folder), "--output", str(tmp_path / "edited"), "--rename_task", "topic", "subject"])
    found = load_pipeline(tmp_path / "edited")(TEXTS[0])
    assert close(found["subject"], trained.as_pipeline(tokenizer)(TEXTS[0])["topic"], 1e-5)
    assert (tmp_path / "edited" / "model.safetensors").is_file()
    assert not (tmp_path / "edited" / "adapter_config.json").exists()
