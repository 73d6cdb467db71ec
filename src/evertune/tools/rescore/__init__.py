"""Score finished predictions of other projects: the files that CoIN, MCITlib and others write, by our rules and theirs.

Nothing is generated and no GPU is needed. `reading` opens files, `predictions` and `gold` know the layouts, `pairing`
matches them, `peers` holds the scoring of the public evaluators with their defects, `reasons` says why a score differs,
`formats` ties them together by name.
"""

from evertune.tools.rescore.compare import RescoreResult, rescore

__all__ = ["RescoreResult", "rescore"]
