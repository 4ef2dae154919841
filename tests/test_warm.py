"""Tests that a program run by `warm_python` is a process like any other."""

import pytest


def test_code_modules_and_scripts_get_their_arguments(warm_python, tmp_path):
    code = "import sys; print(sys.argv[1:], __name__)"
    (tmp_path / "tool.py").write_text(code)
    for words in (["-c", code], ["-I", "-c", code], ["-m", "tool"], ["tool.py"], [tmp_path / "tool.py"]):
        done = warm_python.run(*words, "a", "b c", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "['a', 'b c'] __main__\n", ""), words


def test_a_program_that_fails_has_its_status_and_its_traceback(warm_python):
    assert warm_python.run("-c", "import sys; sys.exit(3)").returncode == 3
    done = warm_python.run("-c", "print('first'); {}['Lima']")
    assert (done.returncode, done.stdout) == (1, "first\n")
    assert done.stderr.endswith("KeyError: 'Lima'\n")
    assert warm_python.run("-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)").returncode == -9


def test_nothing_of_the_repository_is_there_before_the_program(warm_python, root, tmp_path):
    names = ["mtsbert", "data_prep", "run_mtl", "tests", *(path.stem for path in root.glob("*_mtsbert.py"))]
    code = f"import sys; print(set({names}) & set(sys.modules), {{'', {str(root)!r}}} & set(sys.path)); import mtsbert"
    done = warm_python.run("-I", "-c", code, cwd=root)
    assert done.stdout == "set() set()\n"
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'mtsbert'\n"), done.stderr
    assert warm_python.run("-c", "import mtsbert", cwd=root).returncode == 0
    assert warm_python.run("-c", "import mtsbert", cwd=tmp_path, variables={"PYTHONPATH": str(root)}).returncode == 0


def test_the_libraries_are_there_before_the_program(warm_python):
    done = warm_python.run("-I", "-c", "import sys; print(*sys.modules)")
    there = set(done.stdout.split())
    assert {"torch", "datasets", "transformers.trainer", "sklearn.metrics"} <= there
    assert "spacy" not in there


def test_programs_share_nothing(warm_python):
    changes = "import os, sys, torch; os.environ['LIMA'] = '1'; torch.lima = 1; sys.modules['lima'] = sys; "
    looks = "import os, sys, torch; print('LIMA' in os.environ, hasattr(torch, 'lima'), 'lima' in sys.modules)"
    assert warm_python.run("-c", changes + looks).stdout == "True True True\n"
    assert warm_python.run("-c", looks).stdout == "False False False\n"


def test_variables_are_those_of_the_tests_and_more(warm_python, monkeypatch, tmp_path):
    monkeypatch.setenv("LIMA", "1")
    code = "import os; from transformers import dynamic_module_utils as utils; utils.init_hf_modules();"
    code += "print(os.environ['LIMA'], os.environ['OSLO'])"
    done = warm_python.run("-I", "-c", code, variables={"OSLO": "2", "HF_MODULES_CACHE": str(tmp_path / "modules")})
    assert done.stdout == "1 2\n", done.stderr
    assert (tmp_path / "modules" / "__init__.py").is_file()


RANKS = """
import os, sys, torch
torch.distributed.init_process_group("gloo")
number = torch.tensor(float(os.environ["RANK"]) + 1)
torch.distributed.all_reduce(number)
print(os.environ["RANK"], number.item())
torch.distributed.destroy_process_group()
"""


def test_ranks_find_each_other(warm_python):
    done = warm_python.run("-c", RANKS, num_ranks=2)
    assert (done.returncode, done.stdout) == (0, "0 3.0\n1 3.0\n"), done.stderr


@pytest.mark.parametrize("failing", ["0", "1"])
def test_a_rank_that_fails_ends_the_others(warm_python, failing):
    code = (
        f"import os, sys, time; os.environ['RANK'] == '{failing}' and sys.exit(5); time.sleep(60); print('left alone')"
    )
    done = warm_python.run("-c", code, num_ranks=2)
    assert (done.returncode, done.stdout) == (5, "")


# The second one ends when the first one is gone, and its parent knows.
ONE_AFTER_ANOTHER = """
import os, pathlib, sys, time
rank, first = int(os.environ["RANK"]), pathlib.Path(sys.argv[1])
if rank == 0:
    first.with_suffix(".part").write_text(str(os.getpid()))
    first.with_suffix(".part").rename(first)
while rank == 1 and (not first.exists() or os.path.exists(f"/proc/{first.read_text()}")):
    time.sleep(0.01)
print(rank)
sys.exit(5 + rank)
"""


def test_ranks_may_all_end_by_themselves(warm_python, tmp_path):
    done = warm_python.run("-c", ONE_AFTER_ANOTHER, tmp_path / "first", num_ranks=2, awaits_all=True)
    assert (done.returncode, done.stdout) == (5, "0\n1\n")
