"""Pushes a run to the Hub. Permissions are checked before training, and a failed push loses nothing."""

import glob
import logging
import re
import shlex
import shutil
from concurrent.futures import Future
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from mtsbert.preparation import data_prep


# Files in a checkpoint folder that are not part of the model, pushed only with a checkpoint to resume from.
TRAINER_STATE = (
    *("optimizer*", "scheduler.pt", "scaler.pt", "rng_state*.pth", "trainer_state.json", "training_args.bin"),
    *("global_step*", "pytorch_model_fsdp*"),
)
# What is pushed of an output folder: what belongs to a model, and what a run says of it. Other files may hold local
# paths, or texts and labels of the data.
PUSHED = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "*.py", "README.md"),
    *("tokenizer*.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "chat_template.*"),
    *("vocab.*", "merges.txt", "*.spm", "*.bpe.model", "spiece.model", "bpe.codes"),
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    *("1_Pooling/config.json", "2_Dense/config.json", "2_Dense/*.safetensors", "plots/*.png"),
    *("adapter_config.json", "adapter_base.json"),
    *("all_results.json", "train_results.json", "eval_results.json", "test_results.json", "runs/**/events.*"),
)

hub = data_prep("hub")
UNDONE = "nothing was trained"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
logger = logging.getLogger(__name__)


def check_push(args: TrainingArguments) -> None:
    """Raises `ValueError` if a push is requested but the user is not logged in, or the repository name is invalid."""
    if args.push_to_hub and args.process_index == 0:
        hub.check_push(args.hub_model_id, undone=UNDONE)


def files_of_model(folder: str | Path) -> list[str]:
    """Lists the files of an output folder that are pushed, relative to it."""
    folder = Path(folder)
    found = {path.relative_to(folder).as_posix() for pattern in PUSHED for path in folder.glob(pattern)}
    return sorted(name for name in found if (folder / name).is_file())


def push_command(repo_id: str, folder: str, revision: str | None = None) -> str:
    """Returns the shell command that pushes an output folder like [`PushingTrainer.push_to_hub`]."""
    included = [word for name in files_of_model(folder) for word in ("--include", name)]
    branch = [] if revision is None else ["--revision", revision]
    return shlex.join(["hf", "upload", repo_id, str(folder), ".", *branch, *included])


class PushingTrainer(Trainer):
    """
    A Trainer whose pushes can always be loaded: they contain weights, config, tokenizer, code, the files of
    sentence-transformers, and the model card once it exists. transformers' own pushes during training lack the code
    that `auto_map` refers to.

    If a push during training fails, a warning is logged and training continues. The final push raises an error.
    """

    _has_warned_of_push = False

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        with hub.refused_early(self.args.hub_model_id, undone=UNDONE):
            if private is not None:  # transformers 5.20 reads it only from the arguments
                self.args.hub_private_repo = private
            super().init_hf_repo(token=token)
            if self.is_world_process_zero():
                HfApi().auth_check(self.hub_model_id, token=token, write=True)
                if self.args.hub_revision is not None:
                    HfApi().create_branch(self.hub_model_id, branch=self.args.hub_revision, token=token, exist_ok=True)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card,
    ) -> CommitInfo | Future | None:
        """
        Saves the model to the output folder and uploads this folder from the main process. The README.md in the folder
        is the model card. It is written by `create_model_card` if it does not exist, or if `card` is given.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`):
                As in `Trainer.push_to_hub`. If `hub_model_id` is not set, a message like `"owner/name"` is the
                repository to push to, as in `PreTrainedModel.push_to_hub`.
            blocking, token, revision, private: As in `Trainer.push_to_hub`.
            card: Arguments of `create_model_card`.

        Raises:
            `RuntimeError`: if the upload fails, with the command to push later.
        """
        if self.args.hub_model_id is None and REPOSITORY.fullmatch(commit_message or ""):
            self.args.hub_model_id, commit_message = commit_message, "End of training"
            self.hub_model_id = None
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        if card or not (Path(self.args.output_dir) / "README.md").exists():
            self.create_model_card(**{"model_name": self.hub_model_id.split("/")[-1], **card})
        self._finish_current_push()
        revision = revision or self.args.hub_revision
        try:
            return self._upload(commit_message, token=token, revision=revision, run_as_future=not blocking)
        except Exception as error:  # whatever the error is, the user must know that nothing is lost
            raise RuntimeError(
                f"The push to {self.hub_model_id} failed: {error}\n\nThe model is whole in {self.args.output_dir}. To "
                f"push it later: {push_command(self.hub_model_id, self.args.output_dir, revision)}"
            ) from error

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Uploads a checkpoint in the background after it was saved."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if self.push_in_progress is not None and not self.push_in_progress.is_done():
            if not self.args.hub_always_push:
                return
            self._finish_current_push()  # the files must not change while they are uploaded
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        # Not uploaded from the checkpoint folder, because `save_total_limit` may remove it in the meantime.
        without_state = shutil.ignore_patterns(*TRAINER_STATE)
        shutil.copytree(checkpoint_folder, self.args.output_dir, ignore=without_state, dirs_exist_ok=True)
        message = f"Training in progress, step {self.state.global_step}"
        jobs = [self._upload(message, run_as_future=True)]
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            is_last = self.args.hub_strategy == HubStrategy.CHECKPOINT
            jobs.append(
                self._upload(
                    f"{message}, checkpoint",
                    folder_path=checkpoint_folder,
                    path_in_repo="last-checkpoint" if is_last else Path(checkpoint_folder).name,
                    allow_patterns=None,
                    run_as_future=True,
                )
            )
        for job in jobs:
            job.add_done_callback(self._warn_of_failed_push)
        self.push_in_progress = PushInProgress(jobs)

    def _upload(self, commit_message: str, **kwargs) -> CommitInfo | Future:
        settings = {
            "folder_path": self.args.output_dir,
            "allow_patterns": [glob.escape(name) for name in files_of_model(self.args.output_dir)],
            "revision": self.args.hub_revision,
            **kwargs,
        }
        return self._hub_api.upload_folder(repo_id=self.hub_model_id, commit_message=commit_message, **settings)

    @property
    def _hub_api(self) -> HfApi:
        # A single instance for all uploads, because the futures of one `HfApi` run one after the other.
        if not hasattr(self, "_api"):
            self._api = HfApi()
        return self._api

    def _warn_of_failed_push(self, job: Future) -> None:
        error = job.exception()
        if error is not None and not self._has_warned_of_push:
            self._has_warned_of_push = True
            logger.warning(
                f"A push during training failed: {error}\nTraining goes on, and the model is pushed again at its end. "
                "More failures like this are not reported."
            )
