"""Tests that graphs give the results of the model, also for shapes that the export has not seen."""

import copy
import json
import pickle
import shutil
from itertools import pairwise

import numpy as np
import pytest
import spacy
import torch
from onnx import load as load_graph
from onnx import numpy_helper
from transformers import AutoTokenizer, set_seed

import mtsbert.spacy_component  # noqa: F401 (registers the component)
from modeling_mtsbert import MTSBertModel
from mtsbert.cli import main as run
from mtsbert.commands.demo import main as demo
from mtsbert.commands.export import MOST_CALIBRATED, calibration_texts, export_onnx, export_openvino, main
from mtsbert.exports import onnx, openvino
from mtsbert.exports.pipeline import OnnxPipeline, load_pipeline
from mtsbert.input_arguments import ModelArguments
from mtsbert.network.starting_point import load_model
from tests.mtsbert.conftest import ENCODERS


TEXTS = ["Ada Perez joins Nimbus Labs in Oslo", "Lima", "", "Oslo beat Lima in the final. " * 30]


RUNTIMES = ["onnx", "openvino"]


@pytest.mark.parametrize(("num_texts", "length"), [(1, 3), (2, 7), (5, 31), (3, 64)])
def test_every_output_is_that_of_the_model_at_any_shape(checkpoint, exported, num_texts, length):
    set_seed(length)
    ids = torch.randint(5, 200, (num_texts, length))
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    with torch.no_grad():
        expected = MTSBertModel.from_pretrained(checkpoint).eval()(ids, mask)
    found = load_pipeline(exported).model(ids, mask)
    assert torch.allclose(found.pooler_output, expected.pooler_output, atol=1e-4)
    assert set(found.logits) == set(expected.logits) == {"topic", "ner", "tags", "grade"}
    for task, logits in expected.logits.items():
        assert torch.allclose(found.logits[task], logits, atol=1e-4), task


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_task_layers_and_the_pooling_of_cls_are_part_of_the_graph(layered_model, tokenizer, tmp_path, runtime):
    layered_model.config.pooling = "cls"
    for part in (layered_model, tokenizer):
        part.save_pretrained(tmp_path / "checkpoint")
    paths = ["--model", str(tmp_path / "checkpoint"), "--output", str(tmp_path / runtime)]
    main([*paths, "--format", runtime])
    ids, mask = torch.randint(5, 200, (3, 9)), torch.ones((3, 9), dtype=torch.long)
    mask[0, 4:] = 0
    expected, found = layered_model(ids, mask), load_pipeline(tmp_path / runtime).model(ids, mask)
    assert torch.allclose(found.pooler_output, expected.pooler_output, atol=1e-4)
    for task, logits in expected.logits.items():
        assert torch.allclose(found.logits[task], logits, atol=1e-4), task


def test_the_pipeline_on_an_export_answers_like_the_pipeline_on_torch(checkpoint, exported, close):
    model = MTSBertModel.from_pretrained(checkpoint).eval()
    expected = model.as_pipeline(AutoTokenizer.from_pretrained(checkpoint, config=model.config.encoder_config))
    found = load_pipeline(exported)
    questions = [*TEXTS, (TEXTS[0], TEXTS[1])]
    assert close(found(questions, batch_size=2), expected(questions, batch_size=2))
    assert close(found(TEXTS[0]), expected(TEXTS[0]))


def test_the_pipeline_on_an_export_is_copied_and_pickled(exported, close):
    ask = load_pipeline(exported)
    unasked = pickle.dumps(ask)
    expected = ask(TEXTS)
    for again in (pickle.loads(unasked), pickle.loads(pickle.dumps(ask)), copy.deepcopy(ask)):
        assert close(again(TEXTS), expected)
        assert close(again((TEXTS[0], TEXTS[1])), ask((TEXTS[0], TEXTS[1])))


def test_the_pipeline_on_an_export_takes_the_parameters_of_the_pipeline_on_torch(checkpoint, exported, close):
    expected = MTSBertModel.from_pretrained(checkpoint).eval().as_pipeline()
    questions = [TEXTS[0], (TEXTS[0], TEXTS[1])]
    parameters = {"tasks": ["tags", "near"], "top_k": 2, "threshold": 0.4, "return_embeddings": False}
    answers = load_pipeline(exported)(questions, **parameters)
    assert close(answers, expected(questions, **parameters))
    assert [list(answer) for answer in answers] == [["tags"], ["tags", "near"]]
    with pytest.raises(TypeError, match=r"no parameters \['top'\]"):
        load_pipeline(exported)(questions, top=2)


def test_the_pipeline_on_onnx_takes_defaults_for_every_call(onnx_export):
    parameters = {"tasks": ["tags"], "top_k": 2}
    assert OnnxPipeline(onnx_export, **parameters)(TEXTS) == load_pipeline(onnx_export)(TEXTS, **parameters)
    with pytest.raises(TypeError, match=r"no parameters \['top'\]"):
        OnnxPipeline(onnx_export, top=2)


def test_an_export_gives_only_the_outputs_that_are_asked_for(exported):
    ids = torch.tensor([[2, 9, 3]])
    output = load_pipeline(exported).model(ids, torch.ones_like(ids), tasks=["tags", "near"])
    assert list(output.logits) == ["tags"]
    with pytest.raises(ValueError, match=r"not have: \['mood'\]"):
        load_pipeline(exported).model(ids, torch.ones_like(ids), tasks=["mood"])


def test_int8_is_smaller_and_nearly_the_same(checkpoint, exported, tmp_path):
    flags = ["--model", str(checkpoint), "--output", str(tmp_path / "int8"), "--int8"]
    if (exported / openvino.TEXTS_FILE).exists():
        (tmp_path / "texts.txt").write_text("\n".join(TEXTS[:2] * 5))
        flags += ["--format", "openvino", "--calibration", str(tmp_path / "texts.txt")]
    main(flags)
    whole, small = (
        {path.name: path.stat().st_size for path in folder.iterdir()} for folder in (exported, tmp_path / "int8")
    )
    assert sorted(small) == sorted(whole)
    weights = "openvino_model.bin" if "openvino_model.bin" in whole else "model.onnx"
    assert small[weights] < whole[weights]
    of_matrices = matrices_of_openvino if weights.endswith(".bin") else matrices_of_onnx
    matrices = [matrix.astype(int) for matrix in of_matrices(tmp_path / "int8")]
    assert len(matrices) > 10
    for matrix in matrices:  # CPUs without VNNI multiply them with bytes, and add two products in 16 bits
        for part in (matrix.clip(0), -matrix.clip(None, 0)):
            assert 255 * np.add.reduceat(part, range(0, len(matrix), 2), axis=0).max() < 2**15
        assert abs(matrix).max() > 60
    one, other = load_pipeline(exported)(TEXTS[0]), load_pipeline(tmp_path / "int8")(TEXTS[0])
    cosine = torch.tensor(one["embedding"]) @ torch.tensor(other["embedding"])
    assert 0.98 < cosine < 0.999999


def matrices_of_onnx(folder) -> list[np.ndarray]:
    graph = load_graph(folder / onnx.TEXTS_FILE).graph
    multiplied = {node.input[1] for node in graph.node if node.op_type == "MatMulInteger"}
    return [numpy_helper.to_array(constant) for constant in graph.initializer if constant.name in multiplied]


def matrices_of_openvino(folder) -> list[np.ndarray]:
    """Without the tables of embeddings, of which rows are looked up."""

    def is_multiplied(node) -> bool:
        users = [place.get_node() for output in node.outputs() for place in output.get_target_inputs()]
        kinds = {user.get_type_name() for user in users}
        between = [user for user in users if user.get_type_name() in ("Convert", "Multiply", "Reshape", "Transpose")]
        return "MatMul" in kinds or any(map(is_multiplied, between))

    graph = openvino._core().read_model(folder / openvino.TEXTS_FILE)
    constants = [node for node in graph.get_ops() if node.get_type_name() == "Constant" and is_multiplied(node)]
    return [node.data.T for node in constants if node.data.dtype == np.int8 and node.data.ndim == 2]


def test_openvino_uses_the_threads_of_the_program_also_beside_other_callers(openvino_export):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        graphs = load_pipeline(openvino_export).model.graphs
        torch.set_num_threads(1)  # as each of several callers has one
        for sessions, num_streams in ((graphs._alone, 1), (graphs._beside_others, 2)):
            settings = sessions._graph
            assert settings.get_property("INFERENCE_NUM_THREADS") == 2
            assert settings.get_property("NUM_STREAMS") == num_streams
    finally:
        torch.set_num_threads(before)


def test_an_encoder_that_torch_cannot_trace_is_refused(untraceable, tmp_path):
    with pytest.raises(ValueError, match=r"This model cannot be converted to OpenVINO \(GuardOnDataDependentSymNode"):
        export_openvino(str(untraceable), tmp_path / "openvino")
    assert not (tmp_path / "openvino").exists()
    with pytest.raises(ValueError, match=r"This model cannot be exported to ONNX \(GuardOnDataDependentSymNode"):
        export_onnx(str(untraceable), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_what_load_pipeline_cannot_do_is_refused(checkpoint, onnx_export):
    with pytest.raises(ValueError, match=r"`precision` is 'fp7'; allowed are \['auto', 'fp32', 'bf16'\]"):
        load_pipeline(checkpoint, precision="fp7")
    with pytest.raises(ValueError, match="is an export, which has no revision 'main'"):
        load_pipeline(onnx_export, revision="main")


def test_an_export_without_its_tokenizer_is_refused(exported, tmp_path):
    ours = tmp_path / "export"
    shutil.copytree(exported, ours, ignore=shutil.ignore_patterns("tokenizer*", "vocab*", "special_tokens*"))
    for door in (load_pipeline, OnnxPipeline) if (ours / onnx.TEXTS_FILE).is_file() else (load_pipeline,):
        with pytest.raises(ValueError, match=f"No tokenizer found for '{ours}': the folder has no vocabulary"):
            door(ours)


def test_an_export_to_openvino_computes_in_bf16_if_asked(openvino_export):
    whole, half = (load_pipeline(openvino_export, precision=precision)(TEXTS[0]) for precision in ("fp32", "bf16"))
    cosine = torch.tensor(whole["embedding"]) @ torch.tensor(half["embedding"])
    assert cosine > 0.999


def test_calibration_takes_texts_spread_over_the_whole_file(tmp_path):
    rows = [{"title": f"Text {number}"} for number in range(1_000)] + [{"title": None}, {"title": " "}]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = calibration_texts(tmp_path / "texts.jsonl", "title")
    assert texts[:2] == ["Text 0", "Text 3"]
    assert len(texts) == MOST_CALIBRATED
    (tmp_path / "some.txt").write_text("".join(f"Text {number}\n" for number in range(599)))
    some = [int(text.split()[1]) for text in calibration_texts(tmp_path / "some.txt")]
    assert (len(some), some[-1]) == (MOST_CALIBRATED, 597)  # all of it, not its first half
    assert {later - earlier for earlier, later in pairwise(some)} == {1, 2}
    (tmp_path / "few.txt").write_text("Lima\nOslo\n")
    assert calibration_texts(tmp_path / "few.txt") == ["Lima", "Oslo"]
    with pytest.raises(ValueError, match=r"Row 1 of .*texts\.jsonl has no column 'text', only \['title'\]"):
        calibration_texts(tmp_path / "texts.jsonl")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ValueError, match=r"empty\.txt has no texts in its column 'text', and int8 needs some"):
        calibration_texts(tmp_path / "empty.txt")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--int8", "--format", "openvino"], "--calibration goes with `--format openvino --int8`, which needs it"),
        (["--int8", "--calibration", "texts.csv"], "--calibration goes with `--format openvino --int8`"),
        (["--format", "openvino", "--calibration", "texts.csv"], "--calibration goes with `--format openvino --int8`"),
        (["--text_column", "title"], "--text_column names a column of --calibration; give that as well"),
        (["--encoder", "--int8"], "--int8 quantizes a graph, and --encoder saves the plain encoder"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(checkpoint, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        main(["--model", str(checkpoint), "--output", str(tmp_path / "new"), *flags])
    assert list(tmp_path.iterdir()) == []


def test_openvino_reports_nothing_to_its_makers(warm_python, root):
    """Its telemetry sends an event at every import, unless the package for that is missing."""
    code = (
        "import sys\n"
        "assert 'openvino' not in sys.modules\n"
        "from mtsbert.exports.openvino import import_openvino\n"
        "import_openvino()\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry.')])"
    )
    done = warm_python.run("-c", code, cwd=root)
    assert done.stdout == "[]\n", done.stderr[-3000:]


# Ctrl-C after exports were opened, dropped and quantized.
SIGNALLED = """
import os, signal, sys
from mtsbert.commands.export import main
from mtsbert.exports.pipeline import load_pipeline

checkpoint, export, texts, output = sys.argv[1:]
signal.signal(signal.SIGINT, lambda *_: print("heard"))
first, second = (load_pipeline(export) for _ in range(2))
for pipeline in (first, second):
    pipeline(["Oslo", ("Oslo", "Lima")])
del pipeline, first
del second
os.kill(os.getpid(), signal.SIGINT)
main(["--model", checkpoint, "--output", output, "--format", "openvino", "--int8", "--calibration", texts])
os.kill(os.getpid(), signal.SIGINT)
"""


def test_signals_are_heard_after_exports_were_dropped(warm_python, checkpoint, openvino_export, tmp_path, root):
    """OpenVINO leaves the handlers of signals without a stack if several of its cores end in the order they began."""
    (tmp_path / "texts.txt").write_text("\n".join(filter(None, TEXTS)))
    paths = (checkpoint, openvino_export, tmp_path / "texts.txt", tmp_path / "int8")
    done = warm_python.run("-c", SIGNALLED, *paths, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("heard\n") == 2


def test_a_checkpoint_without_pair_tasks_has_one_graph(shallow_model, tokenizer, tmp_path):
    shallow_model.save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    main(["--model", str(tmp_path / "checkpoint"), "--output", str(tmp_path / "onnx")])
    assert [path.name for path in (tmp_path / "onnx").glob("*.onnx")] == ["model.onnx"]
    assert json.loads((tmp_path / "onnx" / "config.json").read_text())["model_type"] == "mtsbert"


def test_folders_that_cannot_be_are_refused(checkpoint, exported, tmp_path):
    with pytest.raises(ValueError, match="exists already"):
        main(["--model", str(checkpoint), "--output", str(exported)])
    with pytest.raises(ValueError, match="exists already"):
        main(["--model", str(checkpoint), "--output", str(exported), "--format", "openvino"])
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


def test_an_encoder_that_cannot_be_exported_right_is_refused(model_on, tokenizer, tmp_path):
    """The graph of ModernBERT is right for a single text alone: the exporter gives RotaryEmbedding one shape."""
    model_on(ENCODERS["modernbert"]).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="This model cannot be exported: its graph fails on inputs of shape"):
        export_onnx(str(tmp_path / "model"), tmp_path / "onnx")
    assert [path.name for path in tmp_path.iterdir() if "onnx" in path.name] == []


def test_a_graph_that_gives_other_numbers_is_refused(shallow_model, tokenizer, tmp_path, monkeypatch):
    shallow_model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    written = onnx.write_graph

    def write_another(graph, *args, **kwargs):
        other = copy.deepcopy(graph)
        with torch.no_grad():
            other.model.heads["topic"].classifier.bias.add_(0.1)
        written(other, *args, **kwargs)

    monkeypatch.setattr(onnx, "write_graph", write_another)
    with pytest.raises(ValueError, match=r"cannot be exported: for inputs of shape \(1, 1\), its graph gives other"):
        export_onnx(str(tmp_path / "model"), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize(
    "command",
    [
        "tune-thresholds --data {rows} --target f1",
        "edit --output {new} --drop_task topic",
        "evaluate-embedding --retrieval {rows} --query_column text --document_column label",
        "export --output {new}",
    ],
)
def test_a_command_that_needs_weights_names_an_export(exported, news_file, tmp_path, command):
    words = command.format(rows=news_file, new=tmp_path / "new").split()
    with pytest.raises(SystemExit, match=f"'{exported}' is an export, which has a graph .*: `mtsbert predict`"):
        run([*words, "--model", str(exported)])
    assert not (tmp_path / "new").exists()


def test_a_run_does_not_start_from_an_export(exported):
    with pytest.raises(ValueError, match=f"'{exported}' is an export"):
        load_model(ModelArguments(model_name_or_path=str(exported)), {})


def test_a_space_of_an_export_is_refused(exported, tmp_path):
    with pytest.raises(ValueError, match=f"'{exported}' is an export, which has a graph .*`demo` without `--app`"):
        demo(["--model", str(exported), "--app", str(tmp_path / "space")])
    assert not list(tmp_path.iterdir())


def test_a_saved_spacy_pipeline_needs_the_export_no_more(exported, checkpoint, close, tmp_path):
    shutil.copytree(exported, tmp_path / "export")
    saved, expected = tmp_path / "saved", load_pipeline(checkpoint)(TEXTS[0])
    nlp = spacy_pipeline(tmp_path / "export")
    nlp.to_disk(saved)
    shutil.rmtree(tmp_path / "export")
    again = spacy.load(saved)
    assert close(again(TEXTS[0])._.mtsbert, expected, 1e-4)
    again.to_disk(saved)  # in place
    assert close(spacy.load(saved)(TEXTS[0])._.mtsbert, expected, 1e-4)
    with pytest.raises(ValueError, match=r"export, the export that this pipeline runs on, is gone"):
        nlp.to_disk(tmp_path / "other")


def test_a_spacy_pipeline_that_is_saved_over_another_replaces_its_graphs(
    onnx_export, model, tokenizer, close, tmp_path
):
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    for of in (onnx_export, tmp_path / "model"):
        spacy_pipeline(of).to_disk(tmp_path / "saved")
    answer = spacy.load(tmp_path / "saved")(TEXTS[0])._.mtsbert
    assert close(answer, load_pipeline(tmp_path / "model")(TEXTS[0]), 1e-5)


def spacy_pipeline(model) -> spacy.Language:
    nlp = spacy.blank("en")
    nlp.add_pipe("mtsbert", config={"model": str(model)})
    nlp(TEXTS[0])
    return nlp
