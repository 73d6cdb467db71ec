"""The leaderboard: result files of any contributor as one sorted, filtered and checked table per benchmark.

`sources` reads the files, `board` computes the lines, `page`, `text` and `pareto` show them, `check` lists what is
missing.
"""

from evertune.experiments.leaderboard.board import Benchmark, Board, Line, board_of
from evertune.experiments.leaderboard.check import Checked, check_file
from evertune.experiments.leaderboard.page import write_page
from evertune.experiments.leaderboard.sources import ResultFile, Run, read_files

__all__ = [
    "Benchmark",
    "Board",
    "Checked",
    "Line",
    "ResultFile",
    "Run",
    "board_of",
    "check_file",
    "read_files",
    "write_page",
]
