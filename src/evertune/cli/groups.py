"""The groups of `evertune --help`, an example of every command, and what a name of another tool means here.

Imports nothing but typer: `--help` and the completion of a shell come by here.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

from evertune.utils.errors import UserError, nearest

GROUPS: dict[str, dict[str, str]] = {
    "Benchmark": {
        "run": "evertune run parcel --method sequential,replay --out runs/first",
        "plan": "evertune plan parcel --method sequential,replay,eproj",
        "grid": "evertune grid benchmarks/table.yaml --dry-run",
        "study": "evertune study paper --dry-run",
        "pairs": "evertune pairs parcel --model tiny-aligned --seeds 0,1,2",
        "similarity": "evertune similarity parcel --model tiny-aligned",
    },
    "Model in service": {
        "new": "evertune new my-model --model smol",
        "try": "evertune try my-model july.jsonl",
        "learn": "evertune learn my-model july.jsonl --accept-if 'gain>5'",
        "check": "evertune check my-model",
        "ask": "evertune ask my-model cat.jpg 'What is this?'",
        "log": "evertune log my-model",
        "rollback": "evertune rollback my-model --to 1",
        "forget": "evertune forget my-model july",
        "serve": "evertune serve my-model --port 8000",
        "route": "evertune route my-model --upstream http://127.0.0.1:8001",
        "app": "evertune app my-model",
        "export": "evertune export my-model --to merged",
    },
    "Data": {
        "data": "evertune data check july.jsonl",
        "fetch": "evertune fetch smol parcel",
    },
    "Results": {
        "compare": "evertune compare runs/first",
        "report": "evertune report runs/first --out report.html",
        "leaderboard": "evertune leaderboard runs/table --out board",
        "metrics": "evertune metrics matrix.csv --known 5",
        "rescore": "evertune rescore merge.jsonl --format ucit --gold test.json",
    },
    "Environment": {
        "ls": "evertune ls streams",
        "show": "evertune show eproj",
        "doctor": "evertune doctor",
        "cache": "evertune cache --prune --limit 20GB",
    },
}
"""The commands in the order of the help, each with an example."""

DATA_EXAMPLES = {
    "check": "evertune data check july.jsonl --model smol",
    "convert": "evertune data convert july.jsonl july.csv",
    "sample": "evertune data sample july.jsonl ten.jsonl --count 10 --seed 1",
}

EXIT_CODES = """Exit codes: 0 done; 1 a run failed, a stage was rejected, errors were found, or
a question was answered with no; 2 wrong input; 130 Ctrl-C; 143 SIGTERM.
"""

RESUMING = {"run", "grid", "study", "pairs", "learn", "check", "forget", "fetch"}
"""Commands that continue where they were interrupted."""

SERVING = {"serve", "app"}
"""Commands that end when they are stopped."""

_RUN = "'evertune run STREAM' trains on a stream of tasks, 'evertune learn DIR DATA' on one more task"
_CHECK = "'evertune check DIR' evaluates a model on all that it learned, 'evertune run STREAM' after each stage"
_ASK = "'evertune ask DIR IMAGE QUESTION' asks once, 'evertune app DIR' in a browser, 'evertune serve DIR' over HTTP"
_EXPORT = "'evertune export DIR --to FOLDER' writes a checkpoint with the adapters merged"
_DATA = "'evertune data check FILE' checks data, 'evertune data convert SOURCE TARGET' converts them"
_SERVE = "'evertune serve DIR' is an OpenAI-compatible endpoint"
_APP = "'evertune app DIR' opens a page in the browser"
_FETCH = "'evertune fetch NAME' downloads models and data"
_FORGET = "'evertune forget DIR TASK' removes what a model learned on one task"
_BACK = "'evertune rollback DIR --to STAGE' restores an earlier stage"

ELSEWHERE = (
    dict.fromkeys(("train", "finetune", "fine-tune", "sft", "fit", "benchmark", "resume"), _RUN)
    | dict.fromkeys(("eval", "evaluate", "test", "score", "validate"), _CHECK)
    | dict.fromkeys(("chat", "generate", "inference", "infer", "predict"), _ASK)
    | dict.fromkeys(("merge", "merge-lora", "save", "upload"), _EXPORT)
    | dict.fromkeys(("preprocess", "convert", "sample", "dataset", "datasets"), _DATA)
    | dict.fromkeys(("api", "vllm-serve", "deploy"), _SERVE)
    | dict.fromkeys(("web", "webui", "webchat", "ui", "playground"), _APP)
    | dict.fromkeys(("download", "pull"), _FETCH)
    | dict.fromkeys(("undo", "revert", "reset"), _BACK)
    | dict.fromkeys(("unlearn", "remove", "delete"), _FORGET)
    | {
        "env": "'evertune doctor' checks this machine",
        "version": "'evertune --version' prints the version",
        "help": "'evertune --help' lists the commands",
        "list": "'evertune ls methods|streams|models|formats' lists them",
        "history": "'evertune log DIR' lists what a model learned",
        "init": "'evertune new DIR' creates a model folder",
    }
)
"""What users of hf, lm_eval, axolotl and llamafactory-cli type, and the command that does it here."""


class Commands(TyperGroup):
    """A group whose help is in sections, and that says which command an unknown name means."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """One section per group, whole first sentences."""
        groups = GROUPS if ctx.parent is None else {"Commands": DATA_EXAMPLES}
        for title, names in groups.items():
            _write_section(formatter, title, [(name, first_sentence(self.commands[name].help)) for name in names])
        if ctx.parent is None:
            formatter.write(f"\nevertune COMMAND --help shows the options of a command and an example.\n{EXIT_CODES}")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command, or an error that names the one that is meant."""
        if args[0] in self.commands or args[0].startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        raise UserError(f"unknown command '{args[0]}'; {self._meant(args[0], at_top=ctx.parent is None)}")

    def _meant(self, name: str, *, at_top: bool) -> str:
        if at_top and name.lower() in ELSEWHERE:
            return ELSEWHERE[name.lower()]
        return nearest(name, self.commands, cutoff=0.6)


def _write_section(formatter: Any, title: str, rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for names in GROUPS.values() for name in names)
    with formatter.section(title):
        formatter.write_dl([(name.ljust(width), text) for name, text in rows])


def first_sentence(text: str | None) -> str:
    """The part of a help text that the list of commands shows."""
    return " ".join((text or "").split("\n\n")[0].split()).split(". ")[0].removesuffix(".") + "."


def example_of(name: str) -> str:
    """The example that ends the help of a command, as click leaves it unwrapped."""
    commands = {name: example for names in GROUPS.values() for name, example in names.items()}
    commands |= {f"data {name}": example for name, example in DATA_EXAMPLES.items()}
    return f"\b\nExample:\n  {commands[name]}"
