"""The notebooks of examples/ run, and are committed with small outputs that say nothing of a machine."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient

from tests.conftest import ROOT


NOTEBOOKS = sorted(path.stem for path in (ROOT / "examples").glob("*.ipynb"))
MOST_BYTES = 20_000
NEED_SPACY = ("news_sample", "freezing")
STEPS = 2


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)


def said(notebook: nbformat.NotebookNode) -> list[str]:
    """What the code cells print or return, as text."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "execute_result"}
    return [output.text if "text" in output else output.data["text/plain"] for output in outputs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where all notebooks run, so that the sample is labelled once."""
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def kernel(root, folder):
    """A kernel for all notebooks, so that torch is imported once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTSBERT_EXAMPLE_STEPS", str(STEPS))
        patch.setenv("PYTHONPATH", str(root))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("HF_HOME", str(folder / "cache"))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        kernel = KernelManager(kernel_name="python3")
        kernel.start_kernel(cwd=str(folder))
    yield kernel
    kernel.shutdown_kernel(now=True)


def test_there_are_three():
    assert NOTEBOOKS == ["freezing", "news_sample", "partial_labels"]


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of jupyter_client and zmq
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.spacy_model] if name in NEED_SPACY else []) for name in NOTEBOOKS],
)
def test_a_notebook_runs(name, folder, kernel):
    notebook = read(name)
    forget = nbformat.v4.new_code_cell("%reset -f")  # the names of a notebook that has run before
    notebook.cells.insert(0, forget)
    client = NotebookClient(notebook, timeout=800, km=kernel)
    try:
        client.execute()
    finally:
        client.kc.stop_channels()
    text = "\n".join(said(notebook))
    if name == "news_sample":
        assert "{'train': 638, 'validation': 81, 'test': 81}" in text
        assert f"\n{STEPS}\n" in text
        assert text.count("an embedding of 384 numbers") == 2
        assert (folder / "runs" / "news" / "model.safetensors").is_file()
    elif name == "partial_labels":
        assert "'labels': ['O', 'B-PRODUCT', 'I-PRODUCT']" in text
        assert "Row 2 of dataset 'data', split 'train': column 'product': entity" in text
    else:
        trained = {
            row[0]: int(row[1]) for row in re.findall(r"^(\w+ [\w ]*?frozen|nothing frozen) +(\d+) ", text, re.M)
        }
        assert len(trained) == 4
        assert trained["nothing frozen"] > trained["embeddings frozen"] > trained["lower half frozen"] > 1_000_000
        assert trained["encoder frozen"] < 20_000


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_with_small_outputs(root, name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert notebook.metadata.language_info == {"name": "python"}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(cell.metadata for cell in notebook.cells)
    text = "\n".join(said(notebook))
    assert len(text) > 100
    assert not re.search(r"(?<![\w.])/(home|root|tmp|usr|work|Users)\b", json.dumps(notebook))
    assert "Warning" not in text
    assert (root / "examples" / f"{name}.ipynb").stat().st_size < MOST_BYTES


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_of_a_notebook_lead_to_files(root, name):
    texts = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", texts)
    assert links
    assert [link for link in links if not (root / "examples" / link).exists()] == []
