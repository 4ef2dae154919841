"""Tests pushing and loading over HTTP with the Hub of `tests/hub_server.py`; each client is a process of its own."""

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from modeling_mtsbert import MTSBertForTokenClassification, MTSBertModel
from mtsbert.training.hub import push_command
from tests.conftest import ROOT, ROWS
from tests.hub_server import Client, HubServer
from tests.test_doors import PYTHON_FILES


pytestmark = pytest.mark.slow

TOKEN, READ_TOKEN = "hf_token_that_may_write", "hf_token_that_may_read"
WHOLE = {
    *PYTHON_FILES,
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "modules.json"),
    *("1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
}
TRAINER_STATE = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "training_args.bin"}
TEXT = "Ada Perez joins Nimbus Labs in Oslo"
STRATEGIES = ["end", "every_save", "checkpoint", "all_checkpoints"]

OPEN_EVERY_DOOR = """
import json, sys
import torch
from sentence_transformers import SentenceTransformer
from transformers import (
    AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer, pipeline
)
names, text, answer, clone = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] + "/"
found = []
for name, revision in names:
    how = {"trust_remote_code": True, "revision": revision}
    inputs = AutoTokenizer.from_pretrained(name, **how)(text, return_tensors="pt")
    views = {
        "AutoModel": AutoModel.from_pretrained(name, **how),
        "sequence": AutoModelForSequenceClassification.from_pretrained(name, **how),
        "token": AutoModelForTokenClassification.from_pretrained(name, head="ner", **how),
    }
    assert not any(sys.modules[type(view).__module__].__file__.startswith(clone) for view in views.values())
    with torch.no_grad():
        outputs = {door: view.eval()(**inputs) for door, view in views.items()}
    whole = outputs.pop("AutoModel")
    found.append({
        "ids": inputs["input_ids"].tolist(),
        "embedding": whole.pooler_output[0].tolist(),
        "topic": whole.logits["topic"].tolist(),
        "ner": whole.logits["ner"].tolist(),
        "sequence view": outputs["sequence"].logits.tolist(),
        "token view": outputs["token"].logits.tolist(),
        "SentenceTransformer": SentenceTransformer(name, device="cpu", **how).encode(text).tolist(),
        "multi-task": pipeline("multi-task", model=name, **how)(text),
        "feature-extraction": pipeline("feature-extraction", model=name, **how)(text),
        "text-classification": pipeline("text-classification", model=name, **how)(text, top_k=None),
        "token-classification": [
            {**found, "score": float(found["score"])}
            for found in pipeline("token-classification", model=name, **how)(text)
        ],
    })
json.dump(found, open(answer, "w"))
"""

SAVE_AGAIN = """
import json, sys
import torch
from transformers import AutoModel, AutoModelForTokenClassification, AutoTokenizer
name, folder, fork = sys.argv[1:]
AutoModelForTokenClassification.from_pretrained(name, trust_remote_code=True).save_pretrained(f"{folder}/view")
model = AutoModel.from_pretrained(name, trust_remote_code=True)
model.save_pretrained(f"{folder}/model")
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
for copy in ("view", "model"):
    tokenizer.save_pretrained(f"{folder}/{copy}")
model.push_to_hub(fork)
tokenizer.push_to_hub(fork)
"""

LOAD_VIEW = """
import json, sys
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer
folder, text, answer = sys.argv[1:]
inputs = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)(text, return_tensors="pt")
found = []
for door in (AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification):
    model, info = door.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(info.values()), info
    logits = model.eval()(**inputs).logits
    found.append({k: v.tolist() for k, v in logits.items()} if isinstance(logits, dict) else logits.tolist())
json.dump(found, open(answer, "w"))
"""

LOAD_DATASET = """
import sys
from datasets import load_dataset
rows = load_dataset(sys.argv[1])
assert {split: len(part) for split, part in rows.items()} == {"train": 3, "validation": 3, "test": 3}, rows
"""


@pytest.fixture(scope="module")
def hub():
    server = HubServer({TOKEN: "write", READ_TOKEN: "read"})
    yield server
    server.close()


@pytest.fixture(scope="module")
def client(hub):
    client = Client(hub)
    yield client
    client.python.close()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, encoder_folder) -> SimpleNamespace:
    """A folder with a recipe in it; `flags(name)` are those of a run into the subfolder of that name."""
    folder = tmp_path_factory.mktemp("hub")
    rows = [
        {"text": text, "label": topic, "entities": [{"start": s, "end": e, "label": label} for s, e, label in spans]}
        for text, topic, spans in ROWS
    ]
    (folder / "news.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    recipe = {
        "encoder_name_or_path": str(encoder_folder),
        "datasets": {
            "news": {
                "files": {"train": str(folder / "news.jsonl")},
                "columns": {"text": "text", "label": "topic", "entities": "ner"},
            }
        },
        "tasks": {"topic": {"type": "sequence_classification"}, "ner": {"type": "token_classification"}},
        "max_length": 32,
        "do_train": True,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "precision": "fp32",
        "disable_tqdm": True,
        "save_strategy": "epoch",
        "push_to_hub": True,
        "hub_always_push": True,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def flags(name: str, *more: str) -> list[str]:
        output = ["--output_dir", str(folder / name), "--hub_model_id", f"org/{name}"]
        return ["--config", str(folder / "recipe.yaml"), *output, *more]

    return SimpleNamespace(folder=folder, flags=flags)


@pytest.fixture(scope="module")
def ran(hub, client, workplace) -> SimpleNamespace:
    """Runs that push to the repo of their name, one after another: their `errors` and what they `said`."""
    jobs = {
        strategy: ("run_mtl", TOKEN, workplace.flags(strategy, "--hub_strategy", strategy)) for strategy in STRATEGIES
    }
    jobs["branch"] = ("run_mtl", TOKEN, workplace.flags("branch", "--hub_revision", "trial"))
    jobs["flaky"] = ("run_mtl", TOKEN, workplace.flags("flaky"))
    jobs["dropped"] = ("run_mtl", TOKEN, workplace.flags("dropped"))
    jobs["no_token"] = ("run_mtl", None, workplace.flags("no_token"))
    jobs["wrong_token"] = ("run_mtl", "hf_wrong", workplace.flags("wrong_token"))
    jobs["read_token"] = (
        "run_mtl",
        READ_TOKEN,
        workplace.flags("end", "--output_dir", str(workplace.folder / "read")),
    )
    jobs["bad_name"] = ("run_mtl", TOKEN, [*workplace.flags("bad"), "--hub_model_id", "org/a name"])
    data = ["--source", "sample", "--output", str(workplace.folder / "no_data"), "--push_to_hub", "org/no_data"]
    jobs["data_no_token"] = ("data_prep", None, data)
    jobs["data_wrong_token"] = ("data_prep", "hf_wrong", data)

    hub.fail("POST /api/models/org/flaky/commit/main", times=2)
    hub.fail("POST /api/models/org/dropped/commit/main", status=None, times=1)
    return client.run_programs(jobs, workplace.folder)


@pytest.fixture(scope="module")
def opened(hub, client, ran, workplace) -> dict[str, dict]:
    """What every door answers, in one fresh process: by repo id and by folder, of the last and of an earlier state."""
    first = hub.repo("org/every_save").commits[1].sha
    names = {
        "repo": ("org/every_save", None),
        "folder": (str(workplace.folder / "every_save"), None),
        "pinned": ("org/every_save", first),
        "checkpoint": (str(workplace.folder / "every_save" / "checkpoint-2"), None),
    }
    elsewhere = workplace.folder / "elsewhere"
    elsewhere.mkdir()
    answer = workplace.folder / "doors.json"
    client.execute("-I", "-c", OPEN_EVERY_DOOR, json.dumps(list(names.values())), TEXT, answer, ROOT, cwd=elsewhere)
    return dict(zip(names, json.loads(answer.read_text()), strict=True))


DOORS = [
    *("ids", "embedding", "topic", "ner", "sequence view", "token view", "SentenceTransformer", "multi-task"),
    *("feature-extraction", "text-classification", "token-classification"),
]


PUSH_BY_NAME = """
import sys
encoder, output, root = sys.argv[1:]
sys.path.insert(0, root)
from datasets import Dataset
from mtsbert import MTLTrainingArguments, MTSBertModel, MTSBertTrainer, infer_tasks
rows = Dataset.from_list([{"text": "Oslo beat Lima", "topic": "Sports"}, {"text": "Shares rise", "topic": "Business"}])
model = MTSBertModel.from_encoder(encoder, tasks=infer_tasks(rows, {"topic": "sequence_classification"}))
trainer = MTSBertTrainer(model, MTLTrainingArguments(output, max_steps=1), train_dataset=rows)
trainer.train()
trainer.push_to_hub("org/by_name")
"""


def test_a_trainer_pushes_to_the_name_that_it_is_given(hub, client, encoder_folder, tmp_path):
    client.execute("-c", PUSH_BY_NAME, encoder_folder, tmp_path / "run", ROOT, cwd=tmp_path, token=TOKEN)
    commit = hub.repo("org/by_name").commits[-1]
    assert WHOLE | {"README.md"} <= set(commit.files)
    assert "rows in memory" in commit.files["README.md"].decode()


def nearly(answer):
    """For comparing answers of any shape, numbers to 1e-5."""
    if isinstance(answer, dict):
        return {key: nearly(value) for key, value in answer.items()}
    if isinstance(answer, list):
        return [nearly(value) for value in answer]
    return pytest.approx(answer, abs=1e-5) if isinstance(answer, float) else answer


@pytest.mark.parametrize("door", DOORS)
def test_a_pushed_repo_answers_as_the_local_folder(opened, door):
    assert opened["repo"][door] == nearly(opened["folder"][door])


@pytest.mark.parametrize("door", DOORS)
def test_a_pinned_revision_answers_as_the_checkpoint_of_that_step(opened, door):
    assert opened["pinned"][door] == nearly(opened["checkpoint"][door])


def test_a_pinned_revision_is_not_the_newest(opened):
    assert opened["pinned"]["topic"] != nearly(opened["repo"]["topic"])


def test_the_doors_of_a_repo_agree_with_one_another(opened):
    found = opened["repo"]
    assert found["sequence view"] == nearly(found["topic"])
    assert found["token view"] == nearly(found["ner"])
    assert found["SentenceTransformer"] == nearly(found["embedding"])
    assert found["multi-task"]["embedding"] == nearly(found["embedding"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_push_of_every_strategy_is_whole(hub, ran, strategy):
    assert ran.errors[strategy] is None
    pushed = [
        commit for commit in hub.repo(f"org/{strategy}").commits[1:] if not commit.message.endswith(", checkpoint")
    ]
    last = "End of training"
    steps = [] if strategy == "end" else [f"Training in progress, step {step}" for step in (2, 4)]
    assert [commit.message for commit in pushed] == [*steps, last]
    for commit in pushed:
        assert set(commit.files) >= WHOLE
        assert not TRAINER_STATE & set(commit.files)


def test_the_weights_of_a_push_are_those_of_the_run(hub, ran, workplace):
    local = (workplace.folder / "end" / "model.safetensors").read_bytes()
    assert hub.files("org/end")["model.safetensors"] == local


def test_the_model_card_is_pushed(hub, ran, workplace):
    assert hub.files("org/end")["README.md"] == (workplace.folder / "end" / "README.md").read_bytes()


@pytest.mark.parametrize(
    ("strategy", "folders"),
    [
        ("end", set()),
        ("every_save", set()),
        ("checkpoint", {"last-checkpoint"}),
        ("all_checkpoints", {"checkpoint-2", "checkpoint-4"}),
    ],
)
def test_trainer_state_is_pushed_only_with_checkpoints_to_resume_from(hub, ran, workplace, strategy, folders):
    files = hub.files(f"org/{strategy}")
    assert {path.split("/")[0] for path in files if path.endswith("optimizer.pt")} == folders
    for folder in folders:
        local = workplace.folder / strategy / ("checkpoint-4" if folder == "last-checkpoint" else folder)
        expected = {str(path.relative_to(local)): path.read_bytes() for path in local.rglob("*") if path.is_file()}
        pushed = {path.removeprefix(f"{folder}/"): files[path] for path in files if path.startswith(f"{folder}/")}
        assert pushed == expected
        assert set(pushed) >= WHOLE | TRAINER_STATE


def test_a_push_to_a_branch_leaves_main_alone(hub, ran):
    assert set(hub.files("org/branch", "trial")) >= WHOLE
    assert list(hub.files("org/branch")) == [".gitattributes"]


def test_no_token_and_no_path_of_this_machine_is_pushed(hub, ran, workplace):
    for strategy in ("end", "every_save"):
        for commit in hub.repo(f"org/{strategy}").commits:
            for path, content in commit.files.items():
                assert str(workplace.folder).encode() not in content, path
    assert not [oid for oid, content in hub.large_files.items() if TOKEN.encode() in content]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("no_token", r"ValueError: `push_to_hub` needs a token .*`hf auth login`.*HF_TOKEN"),
        ("wrong_token", r"ValueError: .*nothing was trained.*`hf auth login`, or correct the variable HF_TOKEN"),
        ("read_token", r"ValueError: Nothing could be pushed to org/end, .*a token with write permission"),
        ("bad_name", r"Repo id must use alphanumeric chars.*'org/a name'"),
        ("data_no_token", r"SystemExit: data_prep: `push_to_hub` needs a token .*`hf auth login`.*HF_TOKEN"),
        ("data_wrong_token", r"SystemExit: data_prep: .*nothing was built.*`hf auth login`"),
    ],
)
def test_a_push_that_cannot_work_is_refused_before_the_work(hub, ran, workplace, run, message):
    assert re.search(message, ran.errors[run], re.DOTALL)
    assert "What is trained" not in ran.said[run]
    if run != "read_token":  # asked for before the data are read; who may write where, the Hub says later
        assert "texts" not in ran.said[run]
    assert not (workplace.folder / "no_data").exists()
    assert not [repo for _, repo in hub.repos if repo.endswith(run)]


@pytest.mark.parametrize("run", ["flaky", "dropped"])
def test_a_push_that_fails_during_training_is_warned_about_once_and_made_up_for(hub, ran, workplace, run):
    assert ran.errors[run] is None
    assert ran.said[run].count("A push during training failed") == 1
    last = hub.repo(f"org/{run}").commits[-1]
    assert last.message == "End of training"
    assert set(last.files) >= WHOLE
    assert last.files["model.safetensors"] == (workplace.folder / run / "model.safetensors").read_bytes()


def test_a_last_push_that_fails_leaves_a_whole_folder_and_the_command_to_push_it(hub, client, workplace):
    hub.fail("PUT /lfs/", status=403, times=1)
    flags = workplace.flags("broken", "--hub_strategy", "end", "--seed", "9")
    done = client.run(ROOT / "run_mtl.py", *flags, cwd=workplace.folder, token=TOKEN)
    assert done.returncode == 1
    assert "Saved in" in done.stdout
    assert list(hub.files("org/broken")) == [".gitattributes"]
    MTSBertModel.from_pretrained(workplace.folder / "broken")
    (later,) = re.findall(r"The model is whole in .*To push it later: (hf upload org/broken .*)", done.stderr)
    client.upload(later, workplace.folder, TOKEN)
    pushed = hub.files("org/broken")
    assert set(pushed) >= WHOLE
    assert not TRAINER_STATE & set(pushed)
    assert pushed["model.safetensors"] == (workplace.folder / "broken" / "model.safetensors").read_bytes()


def test_the_command_to_push_later_names_the_branch():
    words = shlex.split(push_command("org/name", "a folder", "trial"))
    assert words[:7] == ["hf", "upload", "org/name", "a folder", ".", "--revision", "trial"]


@pytest.fixture(scope="module")
def saved_again(client, ran, workplace) -> Path:
    """A view and a model that were loaded from the Hub, saved in folders; the model also pushed as `org/fork`."""
    folder = workplace.folder / "again"
    folder.mkdir()
    client.execute("-I", "-c", SAVE_AGAIN, "org/end", folder, "org/fork", cwd=folder, token=TOKEN)
    return folder


@pytest.mark.parametrize("copy", ["view", "model"])
def test_what_was_loaded_from_the_hub_is_saved_with_code_heads_and_auto_map(saved_again, workplace, copy):
    original = workplace.folder / "end"
    assert {str(path.relative_to(saved_again / copy)) for path in (saved_again / copy).rglob("*.*")} >= WHOLE
    settings, expected = (json.loads((path / "config.json").read_text()) for path in (saved_again / copy, original))
    for key in ("auto_map", "custom_pipelines", "tasks"):
        assert settings[key] == expected[key]
    for name in PYTHON_FILES:
        assert (saved_again / copy / name).read_bytes() == (original / name).read_bytes()
    weights, expected = (MTSBertModel.from_pretrained(path).state_dict() for path in (saved_again / copy, original))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def test_a_saved_view_loads_from_its_folder_without_any_hub(run_elsewhere, saved_again, opened, workplace, tmp_path):
    run_elsewhere(LOAD_VIEW, saved_again / "view", TEXT, tmp_path / "answer.json")
    whole, sequence, token = json.loads((tmp_path / "answer.json").read_text())
    assert whole["topic"] == nearly(sequence)
    assert whole["ner"] == nearly(token)
    ids = torch.tensor(opened["repo"]["ids"])
    with torch.no_grad():
        expected = MTSBertForTokenClassification.from_pretrained(workplace.folder / "end")(ids).logits
    assert token == nearly(expected.tolist())


def test_a_fork_stands_alone(hub, client, saved_again, tmp_path):
    hub.requests.clear()
    client.execute("-I", "-c", LOAD_VIEW, "org/fork", TEXT, tmp_path / "answer.json", cwd=tmp_path)
    assert set(hub.files("org/fork")) >= WHOLE
    assert [request for request in hub.requests if "org/fork" in request]
    assert not [request for request in hub.requests if "org/end" in request]
    whole, sequence, token = json.loads((tmp_path / "answer.json").read_text())
    assert whole["ner"] == nearly(token)
    assert whole["topic"] == nearly(sequence)


@pytest.mark.spacy_model
def test_a_dataset_is_pushed_or_else_the_command_to_push_it_is_named(hub, client, tmp_path):
    hub.fail("POST /api/datasets/org/news/commit/main", times=1)
    flags = ["--source", "sample", "--max_rows", "3", "--output", str(tmp_path / "news"), "--push_to_hub"]
    jobs = {
        "fails": ("data_prep", TOKEN, [*flags, "org/news"]),
        "works": ("data_prep", TOKEN, [*flags, "org/news2", "--overwrite"]),
    }
    errors = client.run_programs(jobs, tmp_path).errors
    (later,) = re.findall(r"To push it later: (hf upload org/news .* --repo-type dataset)", errors["fails"])
    client.upload(later, tmp_path, TOKEN)
    (tmp_path / "elsewhere").mkdir()
    client.execute("-I", "-c", LOAD_DATASET, "org/news", cwd=tmp_path / "elsewhere")
    assert errors["works"] is None
    pushed = {path: data for path, data in hub.files("org/news2", kind="datasets").items() if path != ".gitattributes"}
    assert pushed == {path.name: path.read_bytes() for path in (tmp_path / "news").iterdir()}


LABELS_OF_HUB = """
import json, sys
sys.path.insert(0, sys.argv[1])
from datasets import ClassLabel, Dataset, Features, Value
from huggingface_hub import HfApi
from mtsbert import load_data
for split, names in {"train": ["neg", "pos"], "validation": ["pos", "neg"]}.items():
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    labels = [names.index("pos"), names.index("neg")]
    rows = Dataset.from_dict({"text": ["good", "bad"], "label": labels}, features=features)
    rows.to_parquet(f"moods/{split}.parquet")
HfApi().create_repo("org/moods", repo_type="dataset")
HfApi().upload_folder(folder_path="moods", repo_id="org/moods", repo_type="dataset")
data = load_data({"moods": {"path": "org/moods"}}, {"label": "sequence_classification"})
found = [data.examples[split]["label"][:] for split in ("train", "validation")]
print(json.dumps([data.tasks["label"]["labels"], *found]))
"""


def test_the_splits_of_a_dataset_may_name_their_labels_in_another_order(client, tmp_path):
    (tmp_path / "moods").mkdir()
    said = client.execute("-c", LABELS_OF_HUB, ROOT, cwd=tmp_path, token=TOKEN)
    assert json.loads(said.splitlines()[-1]) == [["neg", "pos"], ["pos", "neg"], ["pos", "neg"]]


def test_a_token_is_in_no_file_log_or_error(hub, client, recipe, tmp_path):
    token = "hf_aTokenThatNobodyMaySee"
    flags = ["--config", str(recipe(do_eval=True, save_strategy="epoch", log_level="debug"))]
    jobs = {
        "trains": ("run_mtl", token, flags),
        "pushes": ("run_mtl", token, [*flags, "--push_to_hub", "--hub_model_id", "some/name"]),
        "names_it": ("run_mtl", None, [*flags, "--hub_token", token]),
    }
    (tmp_path / "jobs").mkdir()
    hub.fail("GET /api/whoami-v2", status=None, times=1)
    ran = client.run_programs(jobs, tmp_path / "jobs")
    assert ran.errors["trains"] is None
    assert "Nothing could be pushed to some/name, so nothing was trained. Without the push" in ran.errors["pushes"]
    assert "--hub_token is refused" in ran.errors["names_it"]
    assert token not in ran.output
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.name == "training_args.bin" for file in files)
    assert [file for file in files if token.encode() in file.read_bytes()] == []


def test_a_space_is_pinned_to_a_commit(hub, client, checkpoint, tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from huggingface_hub import HfApi; from mtsbert.commands.demo import main\n"
        "HfApi().create_repo('some/space'); HfApi().upload_folder(repo_id='some/space', folder_path=sys.argv[2]);"
        "main(['--model', 'some/space', '--app', 'space'])"
    )
    client.execute("-c", script, ROOT, checkpoint, cwd=tmp_path, token=TOKEN)
    commit = hub.repo("some/space").commits[-1].sha
    assert f"REVISION = '{commit}'" in (tmp_path / "space" / "app.py").read_text()
    assert f"that of commit {commit}" in (tmp_path / "space" / "README.md").read_text()
