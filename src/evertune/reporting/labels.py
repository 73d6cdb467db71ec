"""Numbers in plain words: titles and explanations of the metrics, times and sizes.

Kept apart from tables and page so that the terminal, the Markdown and the page use the same words.
"""

from __future__ import annotations

METRIC_TITLES = {
    "final_average": "final average",
    "mean_average": "mean average",
    "learning_accuracy": "learning accuracy",
    "forgetting": "forgetting",
    "bwt": "backward transfer",
    "bwt_paper": "backward transfer (He et al.)",
    "forward_transfer": "forward transfer",
    "zero_shot": "zero-shot average",
    "intransigence": "intransigence",
    "relative_average": "relative average",
    "gap_to_joint": "gap to joint",
    "held_out_change": "held-out change",
    "text_loss_change": "text loss change",
}
EXPLANATIONS = {
    "final_average": "The mean score over all tasks once everything has been learned. Higher is better.",
    "mean_average": "The mean over the tasks known so far, taken after every stage and averaged. Higher is better.",
    "learning_accuracy": "The mean score of each task right after it was learned (plasticity). Higher is better.",
    "forgetting": "How far each earlier task fell from its best score to the end. Lower is better; 0 is none.",
    "bwt": "What later tasks did to earlier ones, from right after learning to the end. Negative is forgetting.",
    "bwt_paper": "How far each task ends below its best score in any row, row 0 included. Zero or negative.",
    "forward_transfer": "What earlier tasks gave to a task before it was learned, against the base model.",
    "zero_shot": "The base model on the tasks that it is to learn: where everything started.",
    "intransigence": "How much lower a task is learned here than when it is tuned alone. Lower is better.",
    "relative_average": "The final scores as a share of those of tasks tuned alone; 1 means nothing was lost.",
    "gap_to_joint": "How far the final average stays below training on all tasks at once. Lower is better.",
    "held_out_change": "What abilities that no task trains gained or lost, from the base model to the end.",
    "text_loss_change": "How much harder a fixed text became to predict, in nats per token. Higher is worse.",
}


def number(name: str, value: float | None) -> str:
    """A metric's value as text: points with one decimal, the relative average with three, a loss with two."""
    return plain(value, digits={"relative_average": 3, "text_loss_change": 2}.get(name, 1))


def plain(value: float | None, *, digits: int = 2) -> str:
    """A number with a real minus, and none before a zero; `-` where there is no number."""
    if value is None:
        return "-"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def signed(value: float | None, name: str = "") -> str:
    """Points with their sign: `+3.2`, `−0.4`, `0.0`; or what the metric `name` is in."""
    text = number(name, value)
    return f"+{text}" if value is not None and value > 0 and float(text) != 0 else text


def duration(seconds: float) -> str:
    """`8.2 s`, `5 min 0 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
