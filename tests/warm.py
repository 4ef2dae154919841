"""
Runs Python programs in forks of one process that has imported the large libraries already.

Importing them takes a new interpreter five to ten seconds. A fork is a process all the same: nothing of this
repository is imported in it before the program starts, and it shares no state with the tests or with other programs.
Use a real `subprocess` where imports are what is tested, where a library must be imported under another environment,
and at least once for every entry point.
"""

import gc
import importlib.util
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType


# Without spaCy, thinc and srsly, which look for installed components when they are imported, and at no other time.
LIBRARIES = ("torch._dynamo", "torch.distributed.tensor", "transformers.trainer", "transformers.pipelines")
LIBRARIES += ("datasets", "evaluate", "sklearn.linear_model", "sklearn.metrics", "sentence_transformers")
LIBRARIES += ("seqeval.metrics", "matplotlib.figure", "matplotlib.backends.backend_agg")
LONGEST = 600  # seconds for a program, which is then killed by SIGALRM


class WarmPython:
    """
    The process with the libraries, which starts when the first program is run.

    Example:

        >>> python = WarmPython()
        >>> python.run("-c", "print(6 * 7)").stdout
        '42\\n'
        >>> python.close()
    """

    def __init__(self):
        self._process: subprocess.Popen | None = None

    def run(
        self,
        *words: str | Path,
        cwd: Path | None = None,
        variables: dict[str, str] | None = None,
        num_ranks: int = 1,
        awaits_all: bool = False,
    ) -> subprocess.CompletedProcess:
        """
        Runs `python WORDS…` in the environment of the tests and returns its status and what it wrote.

        Args:
            words (`str` or `Path`): What comes after `python`: `-I` or not, then `-c CODE`, `-m MODULE` or a script,
                then the arguments.
            cwd (`Path`, *optional*): The working directory; default: that of the tests.
            variables (`dict[str, str]`, *optional*): Environment variables to set. Those that libraries read when they
                are imported have no effect, but for `HF_MODULES_CACHE`.
            num_ranks (`int`, *optional*, defaults to 1): With two or more, that many processes run at once and find
                each other as those of torchrun do. If one fails, the others are killed. The status is that of the
                first to fail; the output is that of all, one rank after the other.
            awaits_all (`bool`, *optional*, defaults to `False`): Whether the others may end by themselves if one
                process fails.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        environment = os.environ | (variables or {})
        with tempfile.TemporaryDirectory() as folder, held_port() as port:
            ranks = [environment | rank for rank in (ranks_of(num_ranks, port) if num_ranks > 1 else [{}])]
            job = {"words": list(map(str, words)), "cwd": str(cwd or Path.cwd()), "folder": folder, "ranks": ranks}
            job["awaits_all"] = awaits_all
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            status = int(self._process.stdout.readline())
            output, errors = (
                "".join(path.read_text(encoding="utf-8") for path in sorted(Path(folder).glob(f"{name}*")))
                for name in ("stdout", "stderr")
            )
        return subprocess.CompletedProcess([sys.executable, *map(str, words)], status, output, errors)

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()


@contextmanager
def held_port() -> Iterator[int]:
    """Gives a port for a server, which no program that asks for a free one is given in the meantime (on Linux)."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # with which a server sets, too, both may bind it
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def ranks_of(num_ranks: int, port: int) -> list[dict[str, str]]:
    """The variables by which the ranks of a run on this machine find each other."""
    shared = {"WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        {name: str(value) for name, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        for rank in range(num_ranks)
    ]


def serve() -> None:
    """Imports the libraries, prepares what opening a model needs, and then runs the job in each line of the input."""
    for library in LIBRARIES:
        if importlib.util.find_spec(library.partition(".")[0]) is not None:  # some come with extras
            importlib.import_module(library)
    with suppress(ImportError, AttributeError):  # transformers 4 has no such table
        importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("bert")
    gc.freeze()  # a fork that collects garbage would copy the memory of all libraries
    for line in sys.stdin:
        job = json.loads(line)
        running, status = set(), 0
        for rank, environment in enumerate(job["ranks"]):
            if (child := os.fork()) == 0:
                return become(job["words"], job["cwd"], environment, Path(job["folder"]), rank)
            running.add(child)
        while running:
            child, ended = os.wait()
            running.remove(child)
            if ended and not status:
                status = os.waitstatus_to_exitcode(ended)
                for other in set() if job["awaits_all"] else running:
                    os.kill(other, signal.SIGKILL)
        print(status, flush=True)  # noqa: T201
    return None


def become(words: list[str], cwd: str, environment: dict[str, str], folder: Path, rank: int) -> None:
    """Makes this process the one that `python WORDS…` starts; its output goes to files in the folder."""
    signal.alarm(LONGEST)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / f"{name}{rank}", os.O_CREAT | os.O_WRONLY | os.O_APPEND), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if "HF_MODULES_CACHE" in environment:
        sys.modules["transformers.dynamic_module_utils"].HF_MODULES_CACHE = environment["HF_MODULES_CACHE"]
    isolated = words[0] == "-I"
    option, *words = words[isolated:]
    if not isolated:
        first = {"-c": "", "-m": cwd}.get(option, str(Path(option).absolute().parent))
        sys.path[:0] = [first, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    if option == "-c":
        code, *sys.argv[1:] = words
        sys.argv[0] = option
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), main.__dict__)
    elif option == "-m":
        module, *sys.argv[1:] = words
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = [option, *words]
        runpy.run_path(option, run_name="__main__")


if __name__ == "__main__":
    serve()
