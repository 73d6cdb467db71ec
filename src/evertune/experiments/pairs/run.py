"""A study of pairs, done: one process per first task and seed, side by side, then everything put together.

The same call again resumes it; a finished study trains nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from evertune.assets import Progress
from evertune.experiments.grid.run import GridCallback, JobRuns, Workers, default_jobs
from evertune.experiments.grid.workers import Job, Pool
from evertune.experiments.pairs.results import results_of
from evertune.experiments.pairs.study import Study, begin_study
from evertune.experiments.pairs.task_similarity import OWN_ENCODER, loaded_encoder, similarity_of_tasks
from evertune.runs.api import resolved
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.files import digest_of, read_json, write_json
from evertune.utils.plugins import plugin_flags


class PairRuns(JobRuns):
    """The processes of a study and how they ended.

    Args:
        study: begun already.
        jobs: processes at once; None: one per core, one alone on a GPU.
    """

    def __init__(self, study: Study, *, jobs: int | None = None) -> None:
        self.study = study
        places = [(task.name, seed) for seed in study.seeds for task in study.tasks]
        self._open = {f"s{seed}/{first}": (first, seed) for first, seed in places if study.missing(first, seed=seed)}
        self._all = len(places)
        super().__init__(jobs=jobs or (default_jobs() if self._open else 1))

    def run(self, callback: GridCallback) -> None:
        """Learn every pair that is not finished; why a process failed is in `failed`.

        Raises:
            KeyboardInterrupt: stopped by a signal; all workers have ended.
        """
        if not self._open:
            return
        dtype = _dtype(self.study)
        self.work(
            Pool,
            [self._job(name, dtype) for name in self._open],
            callback,
            is_done=lambda job: not self._missing(job.name),
            before_start=lambda _: None,
            when_done=lambda _: None,
        )

    def _job(self, name: str, dtype: str) -> Job:
        first, seed = self._open[name]
        worker = (sys.executable, "-m", "evertune.experiments.pairs.worker")
        command = (*worker, str(self.study.folder), first, str(seed), dtype, *plugin_flags()[1::2])
        return Job(name, command, beside=self.study.place(first, seed=seed))

    def _missing(self, name: str) -> list[str]:
        first, seed = self._open[name]
        return self.study.missing(first, seed=seed)

    def done_now(self, pool: Workers) -> int:
        """Those that neither run nor wait, and did not fail."""
        return self._all - len(pool.running) - len(pool.waiting) - len(self.failed)

    def doing(self, name: str) -> str:
        """How many of its pairs are learned."""
        first, _ = self._open[name]
        every = len(self.study.seconds_of(first))
        return f"{every - len(self._missing(name))} of {every} pairs"


def run_pairs(
    study: Study, *, jobs: int | None = None, callback: GridCallback | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Learn every pair of a study, write `pairs.json` and `index.html` into its folder, and return what they say.

    Raises:
        RunFolderError: the folder holds something else, or a file in it is damaged.
        UserError: a process failed; those that did not have kept what they finished.
        KeyboardInterrupt: stopped by a signal.
    """
    from evertune.experiments.pairs.page import write_pairs_page

    begin_study(study, progress=progress)
    runs = PairRuns(study, jobs=jobs)
    runs.run(callback or GridCallback())
    if runs.failed:
        raise UserError(
            f"{len(runs.failed)} of the runs failed: {', '.join(runs.failed)}. Their logs are beside their folders in "
            f"{study.folder}; the same command again does what is missing"
        )
    result = results_of(study.rows(), similarity_of_study(study), header=header_of(study))
    write_json(study.folder / "pairs.json", result)
    write_pairs_page(result, study.folder / "index.html")
    return result


def header_of(study: Study) -> dict[str, Any]:
    """What the numbers of a study are about."""
    config = resolved(study.config, study.config.method)
    return {
        "stream": study.stream.name,
        "model": Path(study.config.model).name,
        "method": config["method"],
        "seeds": list(study.seeds),
        "settings": {key: config[key] for key in ("limit", "train", "evaluation", "options")},
        "rules": {task.name: task.score for task in study.tasks},
    }


def similarity_of_study(study: Study) -> dict[str, Any]:
    """The similarity of the paired tasks, measured once and kept in `similarity.json`."""
    from evertune.models import load_lmm, model_identity

    path = study.folder / "similarity.json"
    encoder = study.text_encoder or OWN_ENCODER
    model = model_identity(study.config.model, study.config.model_options)
    key = digest_of({"tasks": [task.fingerprint for task in study.tasks], "model": model, "encoder": encoder})[:16]
    if path.exists():
        known: dict[str, Any] = read_json(path)
        if known.get("key") == key:
            return known
    lmm = load_lmm(study.config.model, dtype="float32", options=study.config.model_options)
    found = similarity_of_tasks(lmm, study.tasks, text_encoder=loaded_encoder(study.text_encoder))
    found = {"key": key, "text_encoder": encoder, **found}
    write_json(path, found)
    return found


def _dtype(study: Study) -> str:
    """One dtype for all processes: that of the folder, the requested one, or the faster one."""
    for stamped in sorted(study.folder.glob("s*/*/provenance.json")):
        dtype: str = _read_provenance(stamped)["dtype"]
        return dtype
    from evertune.models.auto_dtype import pick_dtype
    from evertune.utils.device import pick_device

    return str(pick_dtype(study.config.dtype, pick_device())).removeprefix("torch.")


def _read_provenance(path: Path) -> dict[str, Any]:
    provenance = read_json(path)
    if not isinstance(provenance, dict) or "dtype" not in provenance:
        raise RunFolderError(f"{path} is damaged: delete it and run the same command again")
    return provenance
