"""Tests the layout rules: which module imports which, where imports are guarded, and how long a file may be."""

import ast
import re
from pathlib import Path

import pytest


CHECKPOINT_FILES = [
    f"{kind}_mtsbert" for kind in ("answers", "configuration", "entities", "heads", "losses", "modeling", "pipeline")
]
# Each imports only from those before it, and from the files of a checkpoint.
ORDER = [
    "arguments",
    "formats",
    "data",
    "letter_case",
    "network",
    "exports",
    "distillation",
    "adapters",
    "results",
    "calibration",
    "training",
    "page",
    "relabelling",
    "auditing",
    "annotation",
    "serving",
    "commands",
]
BESIDE_ARGUMENTS = (
    "arguments",
    "freezing_arguments",
    "input_arguments",
    "recipe",
    "machine",
    "settings",
    "preparation",
    "runs",
    "threads",
    "__init__",
)
ABOVE_ALL = ("cli", "spacy_component", "__main__")
MOST_LINES = 500
MOST_FILES = 12


def python_files(root: Path) -> list[Path]:
    return sorted([*root.glob("*.py"), *(root / "mtsbert").rglob("*.py"), *(root / "data_prep").rglob("*.py")])


def imported(path: Path) -> set[str]:
    """The modules that a file names in imports, relative ones with their dots."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


def layer(module: str) -> int:
    """The place in `ORDER` of a module of the package, by its name."""
    part = module.split(".")[1] if "." in module else "__init__"
    if part in BESIDE_ARGUMENTS:
        return 0
    return len(ORDER) if part in ABOVE_ALL else ORDER.index(part)


def test_every_package_imports_only_from_those_to_its_left(root):
    wrong = []
    for path in (root / "mtsbert").rglob("*.py"):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        for name in imported(path):
            if name.startswith("."):
                wrong.append(f"{module} imports {name}: names in full, please")
            elif name.split(".")[0] == "mtsbert" and layer(name) > layer(module):
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_the_order_of_packages_is_checked(tmp_path):
    assert layer("mtsbert.data.features") < layer("mtsbert.training.trainer") < layer("mtsbert.cli")
    with pytest.raises(ValueError, match="'elsewhere' is not in list"):
        layer("mtsbert.elsewhere.module")


def test_the_files_of_a_checkpoint_import_nothing_of_the_project_but_each_other(root):
    for name in CHECKPOINT_FILES:
        ours = {module.lstrip(".") for module in imported(root / f"{name}.py")} & {
            *CHECKPOINT_FILES,
            *(module for module in imported(root / f"{name}.py") if module.startswith(("mtsbert", "data_prep"))),
        }
        assert ours <= set(CHECKPOINT_FILES), name


def test_data_prep_imports_nothing_of_the_package_which_imports_it_in_one_place(root):
    for path in (root / "data_prep").rglob("*.py"):
        assert not [name for name in imported(path) if name.split(".")[0] == "mtsbert"], path
    users = [path for path in (root / "mtsbert").rglob("*.py") if any("data_prep" in name for name in imported(path))]
    assert users == []  # by name alone, in `preparation.py`
    assert '"mtsbert.data_prep"' in (root / "mtsbert" / "preparation.py").read_text()


def test_imports_are_guarded_in_the_files_of_a_checkpoint_and_for_extras_alone(root):
    guarded = [
        path.relative_to(root).as_posix()
        for path in [*python_files(root), *(root / "tests").rglob("*.py"), *(root / "benchmarks").rglob("*.py")]
        if re.search(r"except \(?[^\n]*ImportError[^\n]*:$", path.read_text(encoding="utf-8"), re.MULTILINE)
        and path != Path(__file__)
    ]
    assert set(guarded) <= {*(f"{name}.py" for name in CHECKPOINT_FILES), "mtsbert/settings.py", *WITH_A_REASON}


WITH_A_REASON = (
    "mtsbert/network/starting_point.py",  # a package that the user named, of which it says that it is not installed
    "mtsbert/training/losses/task_statistics.py",  # an aggregator of torchjd whose own extra is missing
)


def test_no_file_and_no_folder_is_too_large_to_be_read_at_a_sitting(root):
    long = {
        path.name: text.count("\n")
        for path in python_files(root)
        if (text := path.read_text()).count("\n") > MOST_LINES
    }
    assert long == {}
    for folder in (root / "mtsbert").iterdir():
        if folder.is_dir() and (files := [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]):
            assert len(files) <= MOST_FILES, files
            assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder
