"""Train the small checkpoints that ship with evertune again: `tiny` from scratch, the projector of `smol-aligned`.

`python scripts/pretrain.py tiny --out runs/tiny`; the same command resumes. One thread: the order of sums, and so the
weights, would depend on their number.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from evertune.utils.device import use_threads
from evertune.utils.files import refuse_file
from evertune.utils.quiet import quiet_libraries


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    asks = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asks.add_argument("name", choices=("tiny", "smol"), help="tiny: tiny-aligned and tiny-instruct; smol: smol-aligned")
    asks.add_argument("--out", type=Path, help="where the checkpoints go [runs/NAME]")
    asked = asks.parse_args(arguments)
    quiet_libraries()
    use_threads(1)
    console = Console()
    folder = refuse_file(asked.out or Path("runs") / asked.name)
    if asked.name == "smol":
        fetch_parts(console)
    with phase_bars(console) as on_step:
        scores = made(asked.name, folder, on_step)
    for phase, values in scores.items():
        print(f"{phase:12} " + "  ".join(f"{key} {value:.3f}" for key, value in values.items()))
    print("", *sorted(str(config.parent) for config in folder.glob("*/config.json")), sep="\n")


def fetch_parts(console: Console) -> None:
    """What `smol` starts from, with its own progress bars: two kinds can't be drawn at once."""
    from evertune.cli.console import TerminalCallback
    from evertune.data import load_stream
    from evertune.models.presets import model_folder

    with TerminalCallback(console) as callback:
        model_folder("smol", progress=callback.fetching)
        load_stream("parcel", progress=callback.fetching)


def made(name: str, folder: Path, on_step: Callable[[str, int, int, float], None]) -> dict[str, Any]:
    """Train, and return the scores of each phase."""
    if name == "tiny":
        from pretraining.tiny import pretrain_tiny

        return pretrain_tiny(folder, on_step=on_step)
    from pretraining.smol import pretrain_smol

    return pretrain_smol(folder, on_step=on_step)


@contextmanager
def phase_bars(console: Console) -> Iterator[Callable[[str, int, int, float], None]]:
    """Progress bars, one per phase, with the loss of late and the time left."""
    columns = (TextColumn("{task.description:10}"), BarColumn(bar_width=28), MofNCompleteColumn())
    note = TextColumn("[dim]loss {task.fields[loss]:.3f}[/dim]")
    with Progress(*columns, note, TimeRemainingColumn(), console=console) as progress:
        bars: dict[str, TaskID] = {}

        def on_step(phase: str, step: int, steps: int, loss: float) -> None:
            if phase not in bars:
                bars[phase] = progress.add_task(phase, total=steps, loss=loss)
            progress.update(bars[phase], completed=step, loss=loss)

        yield on_step


if __name__ == "__main__":
    main()
