"""Serves a web page to try a model: the predictions of all tasks for a text, and the similarity of two texts.

    mtsbert demo --model runs/quickstart
    mtsbert demo --model you/model --app spaces/model

The page is served on this machine only, unless `--host` is given. With `--app`, it is written as the files of a Hub
Space instead. Serving needs gradio (requirements-demo.txt).
"""

import argparse
import importlib.metadata
import os
import sys
from pathlib import Path

import yaml
from huggingface_hub import HfApi

from mtsbert.exports.pipeline import load_pipeline
from mtsbert.network.adapters import base_of
from mtsbert.network.starting_point import check_no_export, load_checkpoint_config, title_of
from mtsbert.results.tables import escape
from mtsbert.results.unfinished import new_folder
from mtsbert.settings import import_extra


SDK_VERSION = "6.31.0"  # the version of gradio that a Space installs
PAGE_FILE = Path(__file__).parents[1] / "page" / "app.py"
MODEL_LINE, REVISION_LINE = 'MODEL = "you/model"', "REVISION = None"  # in PAGE_FILE


def serve(model_name_or_path: str, *, host: str, port: int | None, revision: str | None = None) -> None:
    """
    Serves the page until it is interrupted.

    Args:
        model_name_or_path (`str`): The checkpoint: a folder or a Hub id.
        host (`str`): The address to listen on.
        port (`int`, *optional*): The port to listen on. Default: the first free one from 7860.
        revision (`str`, *optional*): Branch, tag or commit of a Hub id.

    Raises:
        `ValueError`: if gradio is not installed, the model is not an mtsbert checkpoint, or the port is in use.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    import_extra("gradio", extra="demo")
    from mtsbert.page.app import LOOK, build_page

    page = build_page(load_pipeline(model_name_or_path, revision=revision), title_of(model_name_or_path))
    try:
        _, url, _ = page.launch(
            **LOOK,
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise ValueError(f"{host}, port {port or 'from 7860 on'}, cannot be listened on: {error}") from error
    sys.stdout.write(f"{model_name_or_path}: {url}\n")
    sys.stdout.flush()
    page.block_thread()


def commit_of(hub_id: str, revision: str | None) -> str:
    """
    Returns the commit that a branch or tag of a Hub model points to now, so that a Space keeps running this code even
    if the branch moves on.
    """
    try:
        return HfApi().model_info(hub_id, revision=revision).sha
    except Exception as error:  # the Hub's errors and its HTTP client's share no base class
        raise ValueError(
            f"The commit of {hub_id} that the page shall run is not known: the Hub does not say ({error})."
        ) from error


def write_app(model_name_or_path: str, folder: Path, *, revision: str | None = None) -> None:
    """
    Writes the `app.py`, `requirements.txt` and `README.md` of a Hub Space to a new folder. A model on the Hub is
    pinned to its current commit, or to the commit of `revision`.

    Raises:
        `ValueError`: if the folder already exists, or the model is not an mtsbert checkpoint, or an export of one,
            which has no code for a Space to run.
    """
    check_no_export(model_name_or_path)
    tasks = load_checkpoint_config(model_name_or_path, revision=revision).tasks
    is_local = Path(model_name_or_path).is_dir()
    commit = None if is_local else commit_of(model_name_or_path, revision)
    model = str(Path(model_name_or_path).resolve()) if is_local else model_name_or_path
    page = PAGE_FILE.read_text(encoding="utf-8")
    assert page.count(MODEL_LINE) == page.count(REVISION_LINE) == 1
    page = page.replace(MODEL_LINE, f"MODEL = {model!r}").replace(REVISION_LINE, f"REVISION = {commit!r}")
    header = {
        "title": title_of(model),
        "sdk": "gradio",
        "sdk_version": SDK_VERSION,
        "python_version": "3.11",
        "app_file": "app.py",
        **({} if is_local else {"models": [model]}),
    }
    needed = ["torch", "transformers"]
    if base_of(model_name_or_path, revision=revision) is not None:
        needed.append("peft")
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in needed}
    files = {
        "app.py": page,
        "requirements.txt": "".join(
            f"{name}=={version}\n" for name, version in {"gradio": SDK_VERSION, **versions}.items()
        ),
        "README.md": f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n"
        f"A page to try {escape(title_of(model))}, an mtsbert model with the tasks {', '.join(tasks)}.\n\n"
        f"The model's own code is run (`trust_remote_code=True`){'' if is_local else f', that of commit {commit}'}. "
        "By hand: `pip install -r requirements.txt`, then `python app.py`.\n",
    }
    with new_folder(folder) as partial:
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{folder}: {', '.join(files)}\n")
    if is_local:
        sys.stdout.write(
            "The model is a folder of this machine: a Space needs its Hub id, in MODEL in app.py, and the commit, in "
            "REVISION.\n"
        )


def main(argv: list[str] | None = None, *, prog: str = "mtsbert demo") -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="mtsbert checkpoint: a folder or a Hub id.")
    parser.add_argument("--revision", help="Branch, tag or commit of a Hub id.")
    parser.add_argument("--port", type=int, help="Port to listen on. Default: the first free one from 7860.")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="Address to listen on. With 0.0.0.0, everybody who can reach this machine sees the page. "
        "Default: %(default)s",
    )
    parser.add_argument(
        "--app", type=Path, metavar="FOLDER", help="Write the files of a Hub Space to this folder instead of serving."
    )
    args = parser.parse_args(argv)
    if args.app is not None:
        write_app(args.model, args.app, revision=args.revision)
    else:
        serve(args.model, host=args.host, port=args.port, revision=args.revision)
