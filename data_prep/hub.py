"""Checks before a long job whether its result can be pushed to the Hub."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import HfApi, get_token
from huggingface_hub.utils import validate_repo_id


def check_push(repo_id: str | None, *, undone: str) -> None:
    """
    Raises `ValueError` if the user is not logged in to the Hub, or the name of the repository is invalid.

    Args:
        repo_id (`str` or `None`): The repository to push to; None if its name is not known yet.
        undone (`str`): What was not done because of the error, such as "nothing was trained".
    """
    if repo_id is not None:
        validate_repo_id(repo_id)
    if get_token() is None:
        raise ValueError(
            "`push_to_hub` needs a token of the Hub, and there is none. Log in with `hf auth login`, or set the "
            "environment variable HF_TOKEN."
        )
    with refused_early(repo_id, undone=undone):
        HfApi().whoami()


@contextmanager
def refused_early(repo_id: str | None, *, undone: str) -> Iterator[None]:
    """Turns errors of the Hub into a `ValueError` that says why a push would fail."""
    try:
        yield
    except Exception as error:  # the Hub's errors and its HTTP client's share no base class
        status = getattr(getattr(error, "response", None), "status_code", None)
        remedy = {
            401: "The token is not valid. Log in again with `hf auth login`, or correct the variable HF_TOKEN.",
            403: "The token may not write there. Choose another name, or a token with write permission.",
        }.get(status, "Without the push no network is needed; the folder can be pushed later.")
        where = f" to {repo_id}" if repo_id else ""
        raise ValueError(f"Nothing could be pushed{where}, so {undone}. {remedy} ({error})") from error
