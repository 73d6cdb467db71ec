"""`evertune.export`: a stage of a run as a checkpoint or as a peft adapter, in a folder and on the hub."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from evertune.assets import Progress
from evertune.runs.api import config_of
from evertune.runs.results import Result, Run, run_folder_of
from evertune.tools.export.adapters import export_adapters
from evertune.tools.export.base import Base, base_of
from evertune.tools.export.hub import Upload
from evertune.tools.export.merged import export_merged
from evertune.tools.export.servers import refuse_unknown_server
from evertune.utils.arguments import named_arguments, path_of
from evertune.utils.errors import UserError, kind_of
from evertune.utils.files import refuse_file


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written.

    Attributes:
        folder: the new folder.
        stage: the stage, of several adapters the last.
        base: how transformers and peft load the base model: a hub id or an absolute folder.
        expert: whose weights these are, where each task has its own.
        apart: of a merged checkpoint, the largest difference between a logit of the run and of the folder.
        largest: the largest logit.
        adapters: the folders of the peft adapters.
        dropped: what was trained and a server will not compute, in words.
        url: where it was uploaded to.
        replaced: how many files were there before; the upload is a commit on top of them.
    """

    folder: Path
    stage: int
    base: str
    expert: str | None = None
    apart: float = 0.0
    largest: float = 0.0
    adapters: tuple[Path, ...] = ()
    dropped: tuple[str, ...] = ()
    url: str | None = None
    replaced: int = 0


@named_arguments
def export(
    run: str | Path | Run | Result,
    to: str | Path,
    *,
    stage: int | None = None,
    expert: str | None = None,
    adapters: bool = False,
    server: str | None = None,
    base_model: str | None = None,
    push_to_hub: str | None = None,
    private: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Write the model of a run as a checkpoint for transformers, or its low-rank matrices as adapters for peft.

    Args:
        run: a run folder, a `Run` (`result.runs["replay"]`), or a `Result` with one method.
        to: a new folder.
        stage: after which stage; default: the last, of adapters all of them, each in a folder of its own.
        expert: which expert, where each task has its own.
        adapters: write the low-rank matrices for peft; else they are merged into their layers.
        server: write adapters as `vllm`, `sglang` or `lmdeploy` read them: of the language model alone, each in a
            folder.
        base_model: the hub id that adapters name as their base model; default: the one that the run began with, or its
            absolute folder.
        push_to_hub: upload the folder to this model repository, `OWNER/NAME`; the token is the one of `hf auth login`
            or of the variable HF_TOKEN.
        private: make a new repository private.
        progress: called while the model is fetched.

    Raises:
        UserError: `to` exists; there is no such stage or expert; the adapters can't be merged, or peft can't represent
            them; the hub refuses the upload; or the logits of what was written are not those of the run.
        RunFolderError: it is no run, or has no stage yet.
    """
    run, to = run_folder_of(run), path_of(to, what="to", example="exported/whole")
    if not isinstance(push_to_hub, str | None):
        raise UserError(
            f"push_to_hub is {kind_of(push_to_hub)}; taken is the model repository, push_to_hub='OWNER/NAME'"
        )
    if refuse_file(to).exists():
        raise UserError(f"{to} exists: choose another folder, or delete it")
    if server:
        refuse_unknown_server(server)
        adapters = True
    if adapters and expert:
        raise UserError("an adapter of a stage is that of its task's expert: leave expert out")
    if base_model and not adapters:
        raise UserError("base_model is what an adapter names: give adapters=True too (--adapters), or leave it out")
    base = base_of(config_of(run).model, given=base_model, progress=progress)
    if push_to_hub and adapters:
        _refuse_local(base)
    upload = Upload.checked(push_to_hub, private=private) if push_to_hub else None
    if adapters:
        number, folders, dropped = export_adapters(run, to, base=base, stage=stage, server=server, progress=progress)
        done = ExportResult(to, number, base.name, adapters=tuple(folders), dropped=dropped)
    else:
        written = export_merged(run, to, base=base, stage=stage, expert=expert, progress=progress)
        done = ExportResult(to, written.stage, base.name, written.expert, written.apart, written.largest)
    return replace(done, url=upload.send(to, stage=done.stage), replaced=upload.files) if upload else done


def _refuse_local(base: Base) -> None:
    """Stop an upload of adapters whose base model is on this machine only."""
    if base.hub_id is None:
        raise UserError(
            f"the base model is the folder {base.name}, which no other machine can load: give its id on the hub, "
            "base_model='OWNER/NAME' (--base-model OWNER/NAME)"
        )
