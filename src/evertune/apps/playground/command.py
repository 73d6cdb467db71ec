"""`evertune app`: opens model folders and serves the page. Gradio is imported here only, with its output silenced."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from evertune.apps.auth import LARGEST_BODY, refuse_without_token
from evertune.apps.playground.uploads import Uploads
from evertune.apps.serving import Server, socket_at
from evertune.assets import Progress
from evertune.utils.errors import UserError

QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SSR_MODE": "False",
    "GRADIO_RUN_HISTORY": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Turns Gradio's telemetry off; Gradio reads these variables when it is imported."""
PATIENCE = 2  # seconds: an open page holds a connection for ever


def playground(
    folders: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    token: str | None = None,
    tokens: int = 32,
    progress: Progress | None = None,
) -> Server:
    """Open models or runs, and take a port.

    Args:
        folders: of one model; compared if there are several.
        host: where it listens.
        port: 0 for any that is free.
        token: what callers must send.
        tokens: longest answer.
        progress: called during downloads.

    Raises:
        UserError: the extra is not installed, the port is taken, others could reach it without a token, or the
            folders can't be shown together. RunFolderError: one is no run folder, or damaged.
    """
    from evertune.apps.playground.model_session import open_runs

    if find_spec("gradio") is None:
        raise UserError("the playground needs the package 'gradio': pip install 'evertune[app]'")
    refuse_without_token(host, token)
    listening = socket_at(host, port)
    runs, session = open_runs(folders, progress=progress)
    os.environ.update(QUIET)
    from evertune.apps.playground.page import Playground, mounted, page_of  # seconds, so after all that may be wrong

    uploads = Uploads(Path(tempfile.mkdtemp(prefix="page-", dir=_uploads())))
    os.environ["GRADIO_TEMP_DIR"] = str(uploads.folder)  # read while the page is made, and kept by it
    page = page_of(Playground(runs, session, tokens=tokens, uploads=uploads))
    app = mounted(page, token=token, largest=LARGEST_BODY)
    os.environ["GRADIO_TEMP_DIR"] = str(_uploads())  # read for every event, of whichever page of this process
    return Server(app, listening, patience=PATIENCE)


@cache
def _uploads() -> Path:
    """The parent folder for the uploads of all pages of this process."""
    place = Path(tempfile.mkdtemp(prefix="evertune-app-")).resolve()
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place
