"""An exported folder on the Hugging Face hub.

The token is found by the hub's own client (`hf auth login`, HF_TOKEN). evertune neither takes nor prints one: messages
are made here, of the kind of an error and of the status of a reply, never of the text of a request.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.models.hub import is_hub_id
from evertune.utils.errors import UserError

OF_GIT = {".gitattributes"}
"""What a new repository has in it."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A repository that was looked at before anything is written.

    Attributes:
        name: `OWNER/NAME`.
        private: whether it is made private, where it is new.
        files: how many files it has already.
    """

    name: str
    private: bool
    files: int = 0

    @classmethod
    def checked(cls, name: str, *, private: bool) -> Upload:
        """What can be known before the export: the name, the login, and what is in the repository.

        Raises:
            UserError: no owner in the name, no login, no network, or a public repository that is to be private.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError

        api = HfApi()
        if "/" not in name:
            raise UserError(f"'{name}' has no owner: give OWNER/NAME, your user name or an organisation before it")
        if not is_hub_id(name):
            raise UserError(_no_name(name))
        nothing = "nothing was exported"
        with _explained(name, nothing):
            user = api.whoami()
            try:
                found = api.model_info(name)
            except RepositoryNotFoundError:
                found = None
        if _role(user) == "read":
            raise UserError(
                f"your token of the Hugging Face hub can only read: log in with one that can write; {nothing}"
            )
        if found is None:
            return cls(name, private)
        if private and not found.private:
            raise UserError(f"{name} exists and is public: leave private out, or choose another name")
        return cls(name, private, len({file.rfilename for file in found.siblings or ()} - OF_GIT))

    def send(self, folder: Path, *, stage: int) -> str:
        """Upload `folder` as one commit, on top of what is there; returns its address.

        Raises:
            UserError: the hub refuses it, or can't be reached; `folder` stays.
        """
        from huggingface_hub import HfApi

        api = HfApi()
        with _explained(self.name, f"{folder} was written; upload it with `hf upload {self.name} {folder}`"):
            api.create_repo(self.name, private=self.private or None, exist_ok=True)
            api.upload_folder(repo_id=self.name, folder_path=folder, commit_message=f"evertune export: stage {stage}")
        return f"{api.endpoint}/{self.name}"


def _no_name(name: str) -> str:
    return f"'{name}' is no name of a repository: OWNER/NAME, of letters, digits, '-', '_' and '.'"


def _role(user: dict[str, Any]) -> str:
    token = (user.get("auth") or {}).get("accessToken") or {}
    return str(token.get("role", ""))


@contextmanager
def _explained(name: str, state: str) -> Iterator[None]:
    """The errors of the hub's client as one sentence, and what is there now (`state`)."""
    from huggingface_hub import errors

    try:
        yield
    except errors.LocalTokenNotFoundError as problem:
        raise UserError(
            f"not logged in to the Hugging Face hub: run `hf auth login`, or set HF_TOKEN; {state}"
        ) from problem
    except errors.OfflineModeIsEnabled as problem:
        raise UserError(f"HF_HUB_OFFLINE is set, so that nothing can be uploaded: unset it; {state}") from problem
    except errors.HfHubHTTPError as problem:
        raise UserError(f"{_refusal(name, problem.response.status_code)}; {state}") from problem
    except errors.HFValidationError as problem:
        raise UserError(f"{_no_name(name)}; {state}") from problem
    except Exception as problem:  # the client raises many kinds, all meaning "not reachable"
        raise UserError(f"the Hugging Face hub can't be reached ({type(problem).__name__}); {state}") from problem


def _refusal(name: str, status: int) -> str:
    """What the status of a reply means."""
    meanings = {
        401: "the Hugging Face hub does not accept the token: log in with `hf auth login`, or set another HF_TOKEN",
        403: f"you may not write to {name}: log in as its owner, or with a token that may write there",
        404: f"{name} is not there, or your token may not write to it",
    }
    return meanings.get(status, f"the Hugging Face hub refuses the upload to {name} (status {status})")
