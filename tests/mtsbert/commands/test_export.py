"""Tests that the ONNX graph gives the results of the model, also for shapes that the export has not seen."""

import copy
import json

import pytest
import torch
from transformers import AutoTokenizer, set_seed

from modeling_mtsbert import MTSBertModel
from mtsbert.commands import export as export_module
from mtsbert.commands.export import export, main
from mtsbert.network.onnx_pipeline import OnnxModel, OnnxPipeline
from tests.mtsbert.conftest import ENCODERS


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

TEXTS = ["Ada Perez joins Nimbus Labs in Oslo", "Lima", "", "Oslo beat Lima in the final. " * 30]


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "whole"
    main(["--model", str(checkpoint), "--output", str(folder)])
    return folder


@pytest.mark.parametrize(("num_texts", "length"), [(1, 3), (2, 7), (5, 31), (3, 64)])
def test_every_output_is_that_of_the_model_at_any_shape(checkpoint, exported, num_texts, length):
    set_seed(length)
    ids = torch.randint(5, 200, (num_texts, length))
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    with torch.no_grad():
        expected = MTSBertModel.from_pretrained(checkpoint).eval()(ids, mask)
    found = OnnxModel(exported)(ids, mask)
    assert torch.allclose(found.pooler_output, expected.pooler_output, atol=1e-4)
    assert set(found.logits) == set(expected.logits) == {"topic", "ner", "tags", "grade"}
    for task, logits in expected.logits.items():
        assert torch.allclose(found.logits[task], logits, atol=1e-4), task


def test_task_layers_are_part_of_the_graph(layered_model, tokenizer, tmp_path):
    for part in (layered_model, tokenizer):
        part.save_pretrained(tmp_path / "checkpoint")
    main(["--model", str(tmp_path / "checkpoint"), "--output", str(tmp_path / "onnx")])
    ids, mask = torch.randint(5, 200, (3, 9)), torch.ones((3, 9), dtype=torch.long)
    mask[0, 4:] = 0
    expected, found = layered_model(ids, mask), OnnxModel(tmp_path / "onnx")(ids, mask)
    assert torch.allclose(found.pooler_output, expected.pooler_output, atol=1e-4)
    for task, logits in expected.logits.items():
        assert torch.allclose(found.logits[task], logits, atol=1e-4), task


def test_the_pipeline_on_onnx_answers_like_the_pipeline_on_torch(checkpoint, exported, close):
    model = MTSBertModel.from_pretrained(checkpoint).eval()
    expected = model.as_pipeline(AutoTokenizer.from_pretrained(checkpoint, config=model.config.encoder_config))
    found = OnnxPipeline(exported)
    questions = [*TEXTS, (TEXTS[0], TEXTS[1])]
    assert close(found(questions, batch_size=2), expected(questions, batch_size=2))
    assert close(found(TEXTS[0]), expected(TEXTS[0]))


def test_the_pipeline_on_onnx_takes_the_parameters_of_the_pipeline_on_torch(checkpoint, exported, close):
    expected = MTSBertModel.from_pretrained(checkpoint).eval().as_pipeline()
    questions = [TEXTS[0], (TEXTS[0], TEXTS[1])]
    parameters = {"tasks": ["tags", "near"], "top_k": 2, "threshold": 0.4, "return_embeddings": False}
    answers = OnnxPipeline(exported)(questions, **parameters)
    assert close(answers, expected(questions, **parameters))
    assert [list(answer) for answer in answers] == [["tags"], ["tags", "near"]]
    assert OnnxPipeline(exported, **parameters)(questions) == answers
    with pytest.raises(TypeError, match=r"no parameters \['top'\]"):
        OnnxPipeline(exported, top=2)


def test_onnx_gives_only_the_outputs_that_are_asked_for(exported):
    ids = torch.tensor([[2, 9, 3]])
    output = OnnxModel(exported)(ids, torch.ones_like(ids), tasks=["tags", "near"])
    assert list(output.logits) == ["tags"]
    with pytest.raises(ValueError, match=r"not have: \['mood'\]"):
        OnnxModel(exported)(ids, torch.ones_like(ids), tasks=["mood"])


def test_int8_is_smaller_and_nearly_the_same(checkpoint, exported, tmp_path):
    main(["--model", str(checkpoint), "--output", str(tmp_path / "int8"), "--int8"])
    assert sorted(path.name for path in (tmp_path / "int8").iterdir()) == sorted(
        path.name for path in exported.iterdir()
    )
    assert (tmp_path / "int8" / "model.onnx").read_bytes() != (exported / "model.onnx").read_bytes()
    whole, small = OnnxPipeline(exported)(TEXTS[0]), OnnxPipeline(tmp_path / "int8")(TEXTS[0])
    cosine = torch.tensor(whole["embedding"]) @ torch.tensor(small["embedding"])
    assert cosine > 0.98


def test_a_checkpoint_without_pair_tasks_has_one_graph(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    main(["--model", str(tmp_path / "checkpoint"), "--output", str(tmp_path / "onnx")])
    assert [path.name for path in (tmp_path / "onnx").glob("*.onnx")] == ["model.onnx"]
    assert json.loads((tmp_path / "onnx" / "config.json").read_text())["model_type"] == "mtsbert"


def test_folders_that_cannot_be_are_refused(checkpoint, exported, tmp_path):
    with pytest.raises(ValueError, match="exists already"):
        main(["--model", str(checkpoint), "--output", str(exported)])
    with pytest.raises(ValueError, match=r"has no model\.onnx"):
        OnnxPipeline(checkpoint)
    with pytest.raises(ValueError, match="No checkpoint found"):
        main(["--model", str(tmp_path / "nothing"), "--output", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


def test_the_encoder_alone_needs_no_code_of_ours(checkpoint, tmp_path, run_elsewhere):
    """As SentenceTransformer and AutoModel read it, in an interpreter that knows nothing of the project."""
    main(["--model", str(checkpoint), "--output", str(tmp_path / "encoder"), "--encoder"])
    assert not list((tmp_path / "encoder").glob("*.py"))
    assert "auto_map" not in (tmp_path / "encoder" / "config.json").read_text()
    code = (
        "import json, sys\n"
        "from sentence_transformers import SentenceTransformer\n"
        "from transformers import AutoModel\n"
        "_, info = AutoModel.from_pretrained('encoder', add_pooling_layer=False, output_loading_info=True)\n"
        "assert not info['missing_keys'] and not info['unexpected_keys'], info\n"
        "print(json.dumps(SentenceTransformer('encoder').encode(sys.argv[1:]).tolist()))"
    )
    texts = [text for text in TEXTS if len(text) < 100]
    printed = run_elsewhere(code, *texts)
    answers = MTSBertModel.from_pretrained(checkpoint).eval().as_pipeline()(texts)
    expected = torch.tensor([answer["embedding"] for answer in answers])
    assert torch.allclose(torch.tensor(json.loads(printed.splitlines()[-1])), expected, atol=1e-5)


def test_an_encoder_is_not_quantized_to_onnx(checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--model", str(checkpoint), "--output", str(tmp_path / "encoder"), "--encoder", "--int8"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_an_encoder_that_cannot_be_exported_right_is_refused(model_on, tokenizer, tmp_path):
    """The graph of ModernBERT is right for a single text alone: the exporter gives RotaryEmbedding one shape."""
    model_on(ENCODERS["modernbert"]).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="This model cannot be exported: its graph fails on inputs of shape"):
        export(str(tmp_path / "model"), tmp_path / "onnx")
    assert [path.name for path in tmp_path.iterdir() if "onnx" in path.name] == []


def test_a_graph_that_gives_other_numbers_is_refused(model, tokenizer, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    written = export_module._write

    def write_another(graph, *args, **kwargs):
        other = copy.deepcopy(graph)
        with torch.no_grad():
            other.model.heads["topic"].classifier.bias.add_(0.1)
        written(other, *args, **kwargs)

    monkeypatch.setattr(export_module, "_write", write_another)
    with pytest.raises(ValueError, match=r"cannot be exported: for inputs of shape \(1, 1\), its graph gives other"):
        export(str(tmp_path / "model"), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
