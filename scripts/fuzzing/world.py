"""The sound files that inputs are made from: a small run folder with everything in it, and the published layouts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fuzzing.readers import World

DATA = Path(__file__).parents[2] / "tests" / "fixtures" / "data"
TASKS = 2


def built(place: Path) -> World:
    """The world in `place`, made there when it is not; the same files each time."""
    run, done = place / "run", place / "done"
    if not done.exists():
        shutil.rmtree(place, ignore_errors=True)
        _taught(place)
        done.touch()
    return World(run=run, data=DATA)


def _taught(place: Path) -> None:
    from crash import make_stream

    import evertune
    from evertune.apps.playground.model_session import open_runs

    stream = make_stream(place, tasks=TASKS)
    os.environ["EVERTUNE_CACHE"] = str(place / "cache")
    evertune.run(str(stream), model="random", methods="eproj", out=place / "run")
    open_runs([place / "run"])  # keeps the questions
