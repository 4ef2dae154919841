"""Tests that loading an untrusted checkpoint never opens a pickle, runs code, or reads files outside of it."""

import io
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertConfig

from configuration_mtsbert import AUTO_MAP, CUSTOM_PIPELINES, MTSBertConfig
from modeling_mtsbert import MTSBertForTokenClassification, MTSBertModel
from mtsbert.commands.export import main as export
from mtsbert.commands.predict import main as predict
from mtsbert.exports.pipeline import OnnxPipeline, load_pipeline
from mtsbert.input_arguments import ModelArguments
from mtsbert.network.starting_point import load_model, load_tokenizer
from run_mtl import main as train
from tests.test_doors import PYTHON_FILES


EXPORTING = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
TEXT = "Ada Perez joins Nimbus Labs in Oslo"
PICKLES = ["pytorch_model.bin", "adapter_model.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
PICKLES += ["training_args.bin", "1_Pooling/pytorch_model.bin", "scaler.pt", "tokenizer.pkl"]


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = str(target)

    def __reduce__(self):
        return (io.open, (self.target, "w"))


@pytest.fixture
def crater(tmp_path) -> Path:
    """The file that a bomb makes."""
    return tmp_path / "crater"


@pytest.fixture
def hostile(checkpoint, tmp_path) -> Path:
    """A copy of a good checkpoint, to be spoilt."""
    return Path(shutil.copytree(checkpoint, tmp_path / "hostile"))


def change(path: Path, **settings) -> None:
    """Changes a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def change_encoder(folder: Path, **settings) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(folder / "config.json", encoder_config=config["encoder_config"] | settings)


def plant(crater: Path, *files: Path) -> None:
    for file in files:
        file.parent.mkdir(exist_ok=True)
        torch.save({"weight": Bomb(crater)}, file)


def weights_as_pickle(folder: Path, crater: Path) -> None:
    (folder / "model.safetensors").unlink()
    plant(crater, folder / "pytorch_model.bin")


def index_that_names_a_pickle(folder: Path, crater: Path) -> None:
    (folder / "model.safetensors").unlink()
    plant(crater, folder / "evil.bin")
    index = {"metadata": {}, "weight_map": {"encoder.weight": "evil.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def config_that_names_a_pickle(folder: Path, crater: Path) -> None:
    plant(crater, folder / "adapter_model.bin")
    change(folder / "config.json", transformers_weights="adapter_model.bin")


SPOILT = {
    weights_as_pickle: "safetensors",
    index_that_names_a_pickle: r"weights are read from safetensors files of the checkpoint alone, .*evil\.bin",
    config_that_names_a_pickle: r"has 'transformers_weights': 'adapter_model\.bin'",
}
OUR_DOORS = {
    "pipeline": lambda folder, tmp_path: load_pipeline(str(folder))(TEXT),
    "predict": lambda folder, tmp_path: predict(
        ["--model", str(folder), "--input", str(text_file(tmp_path)), "--output", str(tmp_path / "answers.jsonl")]
    ),
    "export": lambda folder, tmp_path: export(["--model", str(folder), "--output", str(tmp_path / "onnx")]),
    "spaCy": lambda folder, tmp_path: spacy_pipeline(folder)(TEXT),
    "model": lambda folder, tmp_path: MTSBertModel.from_pretrained(folder),
    "view": lambda folder, tmp_path: MTSBertForTokenClassification.from_pretrained(folder),
    "go on": lambda folder, tmp_path: load_model(ModelArguments(model_name_or_path=str(folder)), tasks_of(folder)),
}
ASK_EVERY_DOOR = """
import json, sys
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification, pipeline
doors = {{
    "AutoModel": AutoModel.from_pretrained,
    "sequence": AutoModelForSequenceClassification.from_pretrained,
    "token": AutoModelForTokenClassification.from_pretrained,
    "multi-task": lambda folder, **how: pipeline("multi-task", model=folder, **how),
    "feature-extraction": lambda folder, **how: pipeline("feature-extraction", model=folder, **how),
    "SentenceTransformer": lambda folder, **how: SentenceTransformer(folder, device="cpu", **how).encode({text!r}),
}}
said = {{}}
for folder in {folders!r}:
    for door, load in doors.items():
        try:
            load(folder, trust_remote_code=True)
            said[f"{{folder}} {{door}}"] = "loaded"
        except Exception as error:
            said[f"{{folder}} {{door}}"] = str(error)
json.dump(said, open({answer!r}, "w"))
"""


def text_file(folder: Path) -> Path:
    (folder / "texts.txt").write_text(TEXT)
    return folder / "texts.txt"


def tasks_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())["tasks"]


def spacy_pipeline(folder: Path):
    import spacy

    import mtsbert.spacy_component  # noqa: F401 (registers the component)

    nlp = spacy.blank("en")
    nlp.add_pipe("mtsbert", config={"model": str(folder)})
    return nlp


# Pickles


def test_the_bomb_goes_off_where_nothing_is_refused(tmp_path, crater):
    plant(crater, tmp_path / "bomb.bin")
    torch.load(tmp_path / "bomb.bin", weights_only=False)["weight"].close()
    assert crater.exists()


@pytest.mark.parametrize("door", OUR_DOORS)
@pytest.mark.parametrize("spoil", SPOILT)
def test_no_door_of_ours_reads_weights_from_a_pickle(door, spoil, hostile, crater, tmp_path):
    spoil(hostile, crater)
    with pytest.raises((ValueError, OSError), match=SPOILT[spoil]):
        OUR_DOORS[door](hostile, tmp_path)
    assert not crater.exists()


def test_no_door_of_transformers_or_sentence_transformers_does(checkpoint, crater, tmp_path, run_elsewhere):
    expected = {}
    for spoil, message in SPOILT.items():
        folder = Path(shutil.copytree(checkpoint, tmp_path / spoil.__name__))
        spoil(folder, crater)
        expected[str(folder)] = message
    beside = Path(shutil.copytree(checkpoint, tmp_path / "pickles_beside_the_weights"))
    plant(crater, *(beside / name for name in PICKLES))
    expected[str(beside)] = "^loaded$"
    answer = tmp_path / "answer.json"
    script = ASK_EVERY_DOOR.format(folders=list(expected), text=TEXT, answer=str(answer))
    run_elsewhere(script)
    said = json.loads(answer.read_text())
    assert len(said) == 6 * len(expected)
    for which, message in said.items():
        assert re.search(expected[which.rpartition(" ")[0]], message), f"{which}: {message}"
    assert not crater.exists()


@pytest.mark.parametrize("door", [door for door in OUR_DOORS if door != "export"])
def test_pickles_beside_the_weights_are_not_looked_at(door, hostile, crater, tmp_path):
    plant(crater, *(hostile / name for name in PICKLES))
    OUR_DOORS[door](hostile, tmp_path)
    assert not crater.exists()


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_bare_encoder_is_read_from_safetensors_too(spoil, encoder_folder, crater, tmp_path, tasks):
    folder = Path(shutil.copytree(encoder_folder, tmp_path / "encoder"))
    spoil(folder, crater)
    with pytest.raises((ValueError, OSError), match=SPOILT[spoil]):
        MTSBertModel.from_encoder(str(folder), tasks=tasks)
    assert not crater.exists()


def test_a_single_file_that_is_no_safetensors_is_no_model(config, tmp_path, crater):
    plant(crater, tmp_path / "weights.bin")
    with pytest.raises(ValueError, match=r"safetensors files of the checkpoint alone, and not from \['weights.bin'\]"):
        MTSBertModel.from_pretrained(tmp_path / "weights.bin", config=config)
    assert not crater.exists()


def test_nobody_can_ask_for_a_pickle(checkpoint):
    with pytest.raises(ValueError, match="from safetensors alone; `use_safetensors` cannot be False"):
        MTSBertModel.from_pretrained(checkpoint, use_safetensors=False)


def test_weights_in_several_files_and_of_a_variant_are_still_read(model, tmp_path):
    for name, options in {"parts": {"max_shard_size": "20KB"}, "variant": {"variant": "small"}}.items():
        model.save_pretrained(tmp_path / name, **options)
        again = MTSBertModel.from_pretrained(tmp_path / name, variant=options.get("variant"))
        assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())
    assert (tmp_path / "parts" / "model.safetensors.index.json").exists()


@pytest.mark.parametrize("part", ["../outside.safetensors", "/tmp/outside.safetensors", "a\\..\\outside.safetensors"])
def test_an_index_names_files_of_its_folder_only(model, part, tmp_path):
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    index = tmp_path / "model" / "model.safetensors.index.json"
    settings = json.loads(index.read_text())
    shutil.copy(tmp_path / "model" / next(iter(settings["weight_map"].values())), tmp_path / "outside.safetensors")
    change(index, weight_map=dict.fromkeys(settings["weight_map"], part))
    with pytest.raises(ValueError, match=r"not from \[.*outside\.safetensors"):
        MTSBertModel.from_pretrained(tmp_path / "model")


@pytest.fixture
def interrupted(recipe, tmp_path):
    """A run with a checkpoint after its first epoch, and a function that goes on from there."""
    flags = ["--config", str(recipe(save_strategy="epoch", num_train_epochs=2))]
    train(flags)
    saved = min((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    return saved, lambda: train([*flags, "--resume_from_checkpoint", str(saved)])


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_run_does_not_go_on_from_a_state_that_is_code(name, interrupted, crater):
    saved, go_on = interrupted
    plant(crater, saved / name)
    with pytest.raises(Exception, match=r"(?i)weights.only|not whole|no whole"):
        go_on()
    assert not crater.exists()


def test_a_run_goes_on_beside_other_pickles_without_reading_them(interrupted, crater):
    saved, go_on = interrupted
    plant(crater, *(saved / name for name in ("training_args.bin", "pytorch_model.bin", "adapter_model.bin")))
    go_on()
    assert not crater.exists()


# Code


@pytest.fixture
def code_of_strangers(hostile, crater) -> Path:
    """The checkpoint with code that makes the crater when it is imported."""
    for name in PYTHON_FILES:
        (hostile / name).write_text(f"open({str(crater)!r}, 'w').close()\n" + (hostile / name).read_text())
    return hostile


@pytest.mark.parametrize("door", [door for door in OUR_DOORS if door != "export"])
def test_no_door_of_ours_runs_the_code_of_a_checkpoint(door, code_of_strangers, crater, tmp_path):
    change(code_of_strangers / "config.json", trust_remote_code=True)
    change(code_of_strangers / "tokenizer_config.json", trust_remote_code=True)
    OUR_DOORS[door](code_of_strangers, tmp_path)
    assert not crater.exists()


STRANGE_ENCODERS = [
    {"auto_map": {"AutoModel": "some/repo--modeling_evil.Evil"}},
    {"auto_map": {"AutoConfig": "configuration_evil.Evil"}, "trust_remote_code": True},
    {"trust_remote_code": True},
    {"custom_pipelines": {"multi-task": {"impl": "evil.Evil"}}},
    {"attn_implementation": "some/kernel"},
    {"_attn_implementation": "some/kernel@main:attention"},
    {"transformers_weights": "../other.safetensors"},
    {"text_config": {"auto_map": {"AutoModel": "some/repo--modeling_evil.Evil"}}},
]


@pytest.mark.parametrize("settings", STRANGE_ENCODERS, ids=json.dumps)
def test_the_encoder_of_a_config_names_no_code_kernel_or_weights(settings, hostile):
    change_encoder(hostile, **settings)
    for load in (MTSBertConfig.from_pretrained, MTSBertModel.from_pretrained, load_pipeline):
        with pytest.raises(ValueError, match=r"encoder_config in config\.json has '\w+'.*That would fetch code"):
            load(str(hostile))


@pytest.mark.parametrize("settings", [{"attn_implementation": "some/kernel"}, {"transformers_weights": "../x.bin"}])
def test_a_config_names_no_kernel_and_no_weights(settings, hostile):
    change(hostile / "config.json", **settings)
    with pytest.raises(ValueError, match=r"^config\.json has '\w+'.*That would fetch code or open other weights"):
        load_pipeline(str(hostile))


def test_attention_may_be_chosen_by_who_loads(hostile):
    assert MTSBertModel.from_pretrained(hostile, attn_implementation="eager").config._attn_implementation == "eager"
    change(hostile / "config.json", attn_implementation="eager")
    MTSBertModel.from_pretrained(hostile)


def test_an_encoder_of_a_class_that_transformers_does_not_have_is_refused(hostile, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("nobody is asked whether to run code"))
    (hostile / "configuration_evil.py").write_text("raise SystemExit('run')")
    change_encoder(hostile, model_type="evil")
    with pytest.raises(ValueError, match="Unrecognized model identifier: evil"):
        load_pipeline(str(hostile))


def test_where_the_encoder_says_it_came_from_is_of_no_consequence(hostile, checkpoint, crater):
    (hostile.parent / "elsewhere").mkdir()
    plant(crater, hostile.parent / "elsewhere" / "pytorch_model.bin")
    change_encoder(hostile, _name_or_path=str(hostile.parent / "elsewhere"))
    change(hostile / "config.json", _name_or_path="../elsewhere")
    assert load_pipeline(str(hostile))(TEXT) == load_pipeline(str(checkpoint))(TEXT)
    assert not crater.exists()


@EXPORTING
def test_an_export_of_a_hostile_checkpoint_runs_nothing_and_has_our_code(code_of_strangers, crater, tmp_path):
    evil = {"AutoModel": "some/repo--modeling_evil.Evil", "AutoTokenizer": ["some/repo--evil.Evil", None]}
    change(code_of_strangers / "config.json", trust_remote_code=True, auto_map=evil)
    change(code_of_strangers / "config.json", custom_pipelines={"text-classification": {"impl": "evil.Evil"}})
    change(code_of_strangers / "tokenizer_config.json", trust_remote_code=True)
    plant(crater, *(code_of_strangers / name for name in PICKLES))
    OUR_DOORS["export"](code_of_strangers, tmp_path)
    assert not crater.exists()
    settings = json.loads((tmp_path / "onnx" / "config.json").read_text())
    assert (settings["auto_map"], settings["custom_pipelines"]) == (AUTO_MAP, CUSTOM_PIPELINES)


def test_what_is_loaded_by_our_classes_is_saved_with_our_code_and_no_other(hostile, tmp_path):
    evil = {"AutoModel": "some/repo--modeling_evil.Evil", "AutoTokenizer": ["some/repo--evil.Evil", None]}
    change(hostile / "config.json", auto_map=evil, custom_pipelines={"text-classification": {"impl": "evil.Evil"}})
    (hostile / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "../..", "type": "os.system"}]')
    MTSBertModel.from_pretrained(hostile).save_pretrained(tmp_path / "saved")
    settings = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (settings["auto_map"], settings["custom_pipelines"]) == (AUTO_MAP, CUSTOM_PIPELINES)
    modules = json.loads((tmp_path / "saved" / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]
    assert all(module["type"].startswith("sentence_transformers.models.") for module in modules)


def test_an_encoder_leaves_its_code_behind(encoder_folder, tasks, tmp_path):
    folder = Path(shutil.copytree(encoder_folder, tmp_path / "encoder"))
    change(folder / "config.json", auto_map={"AutoModel": "some/repo--modeling_evil.Evil"})
    MTSBertModel.from_encoder(str(folder), tasks=tasks).save_pretrained(tmp_path / "saved")
    assert "evil" not in (tmp_path / "saved" / "config.json").read_text()
    MTSBertModel.from_pretrained(tmp_path / "saved")


@pytest.fixture
def encoder_with_code(encoder_folder, tmp_path, crater, monkeypatch) -> Path:
    """An encoder of a class that lies beside its weights."""
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("nobody is asked whether to run code"))
    folder = Path(shutil.copytree(encoder_folder, tmp_path / "encoder"))
    (folder / "evil.py").write_text(f"open({str(crater)!r}, 'w').close()\nclass Evil: ...\n")
    change(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})
    return folder


def test_an_encoder_with_code_of_its_own_is_refused(encoder_with_code, crater, tasks):
    with pytest.raises(ValueError, match="contains custom code"):
        MTSBertModel.from_encoder(str(encoder_with_code), tasks=tasks)
    with pytest.raises(ValueError, match="Unknown encoder"):
        load_tokenizer(ModelArguments(encoder_name_or_path=str(encoder_with_code)))
    with pytest.raises(ValueError, match="`trust_remote_code` is of no use here"):
        MTSBertModel.from_encoder(str(encoder_with_code), encoder_kwargs={"trust_remote_code": True})
    assert not crater.exists()


def test_a_tokenizer_with_code_of_its_own_is_refused(hostile, crater, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("nobody is asked whether to run code"))
    (hostile / "evil.py").write_text(f"open({str(crater)!r}, 'w').close()\nclass Evil: ...\n")
    evil = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    change(hostile / "tokenizer_config.json", **evil)
    answer = load_pipeline(str(hostile))(TEXT)  # transformers has a class for this encoder's tokenizer
    assert set(answer) == {"embedding", "topic", "ner", "tags", "grade"}
    assert not crater.exists()


# Paths


@pytest.fixture
def other_tokenizer(tmp_path, tokenizer) -> Path:
    """One outside of the checkpoint, that knows other words."""
    folder = tmp_path / "outside"
    tokenizer.train_new_from_iterator(["quite other words"], 60, show_progress=False).save_pretrained(folder)
    shutil.copy(folder / "tokenizer.json", folder / "tokenizer.5.0.0.json")
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nelse\n")
    return folder


def test_a_tokenizer_names_no_file_outside_of_its_folder(hostile, other_tokenizer, tokenizer):
    change(
        hostile / "tokenizer_config.json",
        **{name: str(other_tokenizer / "vocab.txt") for name in ("vocab_file", "merges_file", "spm_file")},
        tokenizer_file=str(other_tokenizer / "tokenizer.json"),
        special_tokens_map_file=str(other_tokenizer / "special_tokens_map.json"),
        name_or_path=str(other_tokenizer),
        init_inputs=[],
    )
    assert load_pipeline(str(hostile)).tokenizer.get_vocab() == tokenizer.get_vocab()
    change(hostile / "tokenizer_config.json", fast_tokenizer_files=["../outside/tokenizer.5.0.0.json"])
    assert AutoTokenizer.from_pretrained(hostile, config=BertConfig()).get_vocab() != tokenizer.get_vocab()
    for load in (load_pipeline, lambda name: load_tokenizer(ModelArguments(model_name_or_path=name))):
        with pytest.raises(
            ValueError, match=r"its tokenizer_config\.json names files outside the folder: \['\.\./out"
        ):
            load(str(hostile))


def test_a_graph_reads_no_file_outside_of_its_folder(checkpoint, tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (requirements-onnx.txt)")
    (tmp_path / "secret").write_bytes(bytes(range(64)))
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.UINT8, dims=[64])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    out = onnx.helper.make_tensor_value_info("sentence_embedding", onnx.TensorProto.UINT8, [64])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["w"], [out.name])], "g", [], [out], [tensor])
    folder = Path(shutil.copytree(checkpoint, tmp_path / "graph"))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(Exception, match=r"(?i)external data.*(escapes|outside|invalid|not under)|secret"):
        OnnxPipeline(folder)(TEXT)
