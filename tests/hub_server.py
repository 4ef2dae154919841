"""A local Hugging Face Hub for tests, which answers the requests of `huggingface_hub` for pushing and loading.

Repositories of models and datasets are kept in memory, with immutable commits and branches, and large files by their
checksum. Large files are transferred with LFS, so clients must set `HF_HUB_DISABLE_XET=1`.
"""

import base64
import hashlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

from tests.warm import WarmPython


LARGE_FILES = (".safetensors", ".bin", ".pt", ".pth", ".parquet", ".onnx", ".png")
REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
API = rf"/api/(?P<kind>models|datasets)/{REPO}"
FILES = rf"/(?P<kind>datasets/)?{REPO}"

RUN_PROGRAMS = """
import json, os, sys
root, jobs, answer = sys.argv[1:]
sys.path.insert(0, root)
import data_prep.__main__, run_mtl
errors = {}
for name, (program, token, argv) in json.loads(jobs).items():
    sys.stderr.write(f"=== {name}\\n")
    os.environ.pop("HF_TOKEN", None)
    if token is not None:
        os.environ["HF_TOKEN"] = token
    try:
        (run_mtl if program == "run_mtl" else data_prep.__main__).main(argv)
        errors[name] = None
    except (Exception, SystemExit) as error:
        errors[name] = f"{type(error).__name__}: {error}"
json.dump(errors, open(answer, "w"))
"""


@dataclass
class Commit:
    sha: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repo:
    """A model or a dataset; `commits` are in order, the first made with the repo."""

    id: str
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def add(self, files: dict[str, bytes], message: str, branch: str) -> Commit:
        content = [(path, hashlib.sha1(data).hexdigest()) for path, data in sorted(files.items())]
        sha = hashlib.sha1(json.dumps([self.id, len(self.commits), message, content]).encode()).hexdigest()
        self.commits.append(Commit(sha, message, files))
        self.branches[branch] = sha
        return self.commits[-1]

    def at(self, revision: str) -> Commit:
        sha = self.branches.get(revision, revision)
        for commit in self.commits:
            if commit.sha == sha:
                return commit
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")


class Refusal(Exception):
    """An answer that is an error, as the Hub words it."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict | None = None, **body):
        self.status, self.body = status, {"error": message, **body}
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}


@dataclass
class Fault:
    """Requests whose `METHOD path` matches fail: `after` so many have passed, and then `times` of them."""

    pattern: str
    status: int | None
    after: int
    times: float


class HubServer:
    """
    Listens as soon as it is made, at `url`, until `close`.

    Args:
        tokens (`dict[str, str]`): Token → its role, `"write"` or `"read"`.
    """

    def __init__(self, tokens: dict[str, str]):
        self.tokens = tokens
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large_files: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []  # `METHOD path` of each, in order
        self.lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.storage_url = self.url.replace("127.0.0.1", "localhost")  # another host, as the Hub's storage is
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, pattern: str, *, status: int | None = 500, after: int = 0, times: float = float("inf")) -> None:
        """Lets requests fail, with a status, or by dropping the connection where `status` is None."""
        self.faults.append(Fault(pattern, status, after, times))

    def due_fault(self, request: str) -> Fault | None:
        for fault in self.faults:
            if re.search(fault.pattern, request):
                fault.after -= 1
                if fault.after < 0 and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def repo(self, repo_id: str, kind: str = "models") -> Repo:
        if (kind, repo_id) not in self.repos:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return self.repos[kind, repo_id]

    def files(self, repo_id: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        return self.repo(repo_id, kind).at(revision).files


class Client:
    """Runs programs that know no other Hub than this. What one loads is kept in the folder `home` where it runs."""

    def __init__(self, hub: HubServer):
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING")) and not name.lower().endswith("_proxy") and name != "PYTHONPATH"
        }
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": "home", "HF_HUB_DISABLE_XET": "1", "DO_NOT_TRACK": "1"}
        self.variables = kept | settings
        self.python = WarmPython()  # which imports the libraries with these variables

    def run(self, *words: str | Path, cwd: Path, token: str | None = None) -> subprocess.CompletedProcess:
        """Runs `python WORDS…`."""
        token_if_any = {"HF_TOKEN": token} if token else {}
        with mock.patch.dict(os.environ, self.variables, clear=True):
            modules = {"HF_MODULES_CACHE": str(cwd / "home" / "modules")}
            return self.python.run(*words, cwd=cwd, variables=modules | token_if_any)

    def execute(self, *words: str | Path, cwd: Path, token: str | None = None) -> str:
        """Like `run`, for what must succeed; returns what it prints."""
        done = self.run(*words, cwd=cwd, token=token)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    def run_programs(self, jobs: dict[str, tuple], folder: Path) -> SimpleNamespace:
        """Runs programs with tokens and arguments in one process; returns their `errors` and what they `said`."""
        answer = folder / "errors.json"
        done = self.run("-c", RUN_PROGRAMS, Path(__file__).parent.parent, json.dumps(jobs), answer, cwd=folder)
        assert done.returncode == 0, done.stderr[-4000:]
        parts = re.split(r"^=== (\w+)\n", done.stderr, flags=re.MULTILINE)
        said = dict(zip(parts[1::2], parts[2::2], strict=True))
        return SimpleNamespace(errors=json.loads(answer.read_text()), said=said, output=done.stdout + done.stderr)

    def upload(self, command: str, cwd: Path, token: str) -> None:
        """Runs a command `hf upload …` as a user does."""
        name, *words = shlex.split(command)
        environment = self.variables | {"HF_TOKEN": token}
        subprocess.run([Path(sys.executable).with_name(name), *words], cwd=cwd, env=environment, check=True)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def handle_one_request(self):
        with suppress(ConnectionError):  # the client is gone
            super().handle_one_request()

    def answer(self) -> None:
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = f"{self.command} {path}"
        with self.hub.lock:
            self.hub.requests.append(request)
            fault = self.hub.due_fault(request)
            try:
                if fault is not None and fault.status is None:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                if fault is not None:
                    raise Refusal(fault.status, "Internal error")
                self.role = self.authenticate()
                status, headers, content = self.dispatch(request)
            except Refusal as refusal:
                status, headers, content = refusal.status, refusal.headers, refusal.body
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers = {"Content-Type": "application/json", **headers}
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def authenticate(self) -> str | None:
        """The role of the token, None where there is none."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token)

    def needs(self, role: str) -> None:
        if self.role is None:
            raise Refusal(401, "Invalid username or password.")
        if role == "write" and self.role != "write":
            raise Refusal(403, "Forbidden: you must use a write token")

    def dispatch(self, request: str) -> tuple[int, dict, dict | list | bytes]:
        for pattern, respond in ROUTES.items():
            if found := re.fullmatch(pattern, request):
                groups = found.groupdict()
                if "kind" in groups:
                    groups["kind"] = "datasets" if (groups["kind"] or "").startswith("datasets") else "models"
                return respond(self, **groups)
        raise Refusal(404, f"No such page: {request}")

    def json(self) -> dict:
        return json.loads(self.body)

    # Accounts and repos

    def who_am_i(self):
        self.needs("read")
        token = {"displayName": "test", "role": self.role}
        return 200, {}, {"type": "user", "name": "tester", "orgs": [], "auth": {"accessToken": token}}

    def create_repo(self):
        self.needs("write")
        asked = self.json()
        kind = f"{asked.get('type') or 'model'}s"
        repo_id = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{repo_id}"
        if (kind, repo_id) in self.hub.repos:
            raise Refusal(409, "You already created this repo", url=url)
        self.hub.repos[kind, repo_id] = Repo(repo_id)
        self.hub.repos[kind, repo_id].add({".gitattributes": b""}, "initial commit", "main")
        return 200, {}, {"url": url, "name": repo_id}

    def create_branch(self, kind, repo, branch):
        self.needs("write")
        branches = self.hub.repo(repo, kind).branches
        if branch in branches:
            raise Refusal(409, "Reference already exists")
        branches[branch] = branches[self.json().get("startingPoint") or "main"]
        return 200, {}, {}

    def check_access(self, kind, repo, write=None):
        self.hub.repo(repo, kind)
        self.needs("write" if write else "read")
        return 200, {}, {}

    def info(self, kind, repo, revision=None):
        commit = self.hub.repo(repo, kind).at(revision or "main")
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        facts = {"id": repo, "sha": commit.sha, "siblings": siblings, "tags": [], "private": False, "downloads": 0}
        return 200, {}, facts

    def refs(self, kind, repo):
        branches = self.hub.repo(repo, kind).branches.items()
        found = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in branches]
        return 200, {}, {"branches": found, "tags": [], "converts": []}

    # Uploads

    def preupload(self, kind, repo, revision):
        self.needs("write")
        files = self.hub.repo(repo, kind).at(revision).files
        answers = []
        for asked in self.json()["files"]:
            path = asked["path"]
            answers.append({"path": path, "uploadMode": "lfs" if is_large(path) else "regular", "shouldIgnore": False})
            if path in files:
                answers[-1]["oid"] = checksum(path, files[path])
        return 200, {}, {"files": answers}

    def lfs_batch(self, kind, repo):
        self.needs("write")
        self.hub.repo(repo, kind)
        objects = []
        for asked in self.json()["objects"]:
            links = {"upload": f"{self.hub.url}/lfs/{asked['oid']}", "verify": f"{self.hub.url}/verify"}
            actions = {name: {"href": href, "header": {}} for name, href in links.items()}
            known = asked["oid"] in self.hub.large_files
            objects.append({**asked, **({} if known else {"actions": actions})})
        return 200, {"Content-Type": "application/vnd.git-lfs+json"}, {"transfer": "basic", "objects": objects}

    def lfs_put(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "The content is not what was announced")
        self.hub.large_files[oid] = self.body
        return 200, {}, b""

    def lfs_verify(self):
        self.needs("write")
        asked = self.json()
        if len(self.hub.large_files.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "Not uploaded, or only in part")
        return 200, {}, {}

    def commit(self, kind, repo, revision):
        self.needs("write")
        found = self.hub.repo(repo, kind)
        files, message = dict(found.at(revision).files), ""
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.large_files:
                    raise Refusal(400, f"{value['path']} was not uploaded")
                files[value["path"]] = self.hub.large_files[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                folder = value["path"].rstrip("/") + "/"
                files = {path: data for path, data in files.items() if not path.startswith(folder)}
        made = found.add(files, message, branch=revision)
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{repo}/commit/{made.sha}"
        return 200, {}, {"success": True, "commitOid": made.sha, "commitUrl": url}

    def validate_yaml(self):
        if not self.json()["content"].startswith("---\n"):
            raise Refusal(400, "Invalid metadata", errors=[{"message": "no metadata"}], warnings=[])
        return 200, {}, {"errors": [], "warnings": []}

    # Downloads

    def tree(self, kind, repo, revision, folder=""):
        commit = self.hub.repo(repo, kind).at(revision)
        inside = f"{folder}/" if folder else ""
        files = {path: data for path, data in sorted(commit.files.items()) if path.startswith(inside)}
        if folder and not files:
            raise Refusal(404, f"{folder} does not exist on {revision!r}", "EntryNotFound")
        whole = self.query.get("recursive", ["false"])[0].lower() == "true"
        rows = []
        for path, data in files.items():
            steps = path.removeprefix(inside).split("/")
            for depth in range(1, len(steps) if whole else min(len(steps), 2)):
                parent = inside + "/".join(steps[:depth])
                row = {
                    "type": "directory",
                    "path": parent,
                    "oid": hashlib.sha1(parent.encode()).hexdigest(),
                    "size": 0,
                }
                rows += [row] if row not in rows else []
            if whole or len(steps) == 1:
                rows.append(file_row(path, data))
        return 200, {}, rows

    def paths_info(self, kind, repo, revision):
        files = self.hub.repo(repo, kind).at(revision).files
        is_form = "json" not in self.headers.get("Content-Type", "")
        paths = parse_qs(self.body.decode()).get("paths", []) if is_form else self.json()["paths"]
        return 200, {}, [file_row(path, files[path]) for path in paths if path in files]

    def resolve(self, kind, repo, revision, path):
        commit = self.hub.repo(repo, kind).at(revision)
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound", headers)
        content = commit.files[path]
        etag = f'"{checksum(path, content)}"'
        if is_large(path):  # lies elsewhere
            linked = {"X-Linked-Etag": etag, "X-Linked-Size": str(len(content))}
            location = f"{self.hub.storage_url}/lfs/{checksum(path, content)}"
            return 302, {**headers, **linked, "Location": location}, b""
        return self.ranged(content, {**headers, "ETag": etag})

    def lfs_get(self, oid):
        if oid not in self.hub.large_files:
            raise Refusal(404, "No such object")
        return self.ranged(self.hub.large_files[oid], {"ETag": f'"{oid}"'})

    def ranged(self, content: bytes, headers: dict):
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return 200, headers, content
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if first > last:
            raise Refusal(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{len(content)}"})
        span = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        return 206, {**headers, **span}, content[first : last + 1]


ROUTES = {
    "GET /api/whoami-v2": _Handler.who_am_i,
    "POST /api/repos/create": _Handler.create_repo,
    "POST /api/validate-yaml": _Handler.validate_yaml,
    f"GET {API}(?:/revision/(?P<revision>.+))?": _Handler.info,
    f"GET {API}/refs": _Handler.refs,
    f"GET {API}/auth-check(?P<write>/write)?": _Handler.check_access,
    f"GET {API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?": _Handler.tree,
    f"POST {API}/paths-info/(?P<revision>.+)": _Handler.paths_info,
    f"POST {API}/branch/(?P<branch>.+)": _Handler.create_branch,
    f"POST {API}/preupload/(?P<revision>.+)": _Handler.preupload,
    f"POST {API}/commit/(?P<revision>.+)": _Handler.commit,
    rf"POST {FILES}\.git/info/lfs/objects/batch": _Handler.lfs_batch,
    "PUT /lfs/(?P<oid>[0-9a-f]{64})": _Handler.lfs_put,
    "(?:GET|HEAD) /lfs/(?P<oid>[0-9a-f]{64})": _Handler.lfs_get,
    "POST /verify": _Handler.lfs_verify,
    f"(?:GET|HEAD) {FILES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)": _Handler.resolve,
}


def is_large(path: str) -> bool:
    return path.endswith(LARGE_FILES)


def blob_id(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def checksum(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if is_large(path) else blob_id(content)


def file_row(path: str, content: bytes) -> dict:
    row = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
    if is_large(path):
        row["lfs"] = {"oid": checksum(path, content), "size": len(content), "pointerSize": 134}
    return row
