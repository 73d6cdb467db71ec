"""What tables, the page and files say of probes, from results that nobody measured."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO

import pytest
from matrices import matrix
from rich.console import Console

from evertune.reporting.held_out import FORMULAS, Change, HeldOut, TextProbe
from evertune.reporting.matrix import Matrix
from evertune.reporting.page import write_report
from evertune.reporting.tables import OTHER_PROBES, as_markdown, compare, metrics_with_references, rich_matrix
from evertune.runs.results import COLUMNS, Result, Run
from evertune.utils.errors import RunFolderError, UserError

TEXT = TextProbe(3.2, 3.45, 800, Change(0.25, (0.125, 0.375)))
HELD = HeldOut(
    ["scenes", "letters"],
    [[60.0, 90.0], [50.0, 85.0], [40.0, 80.0]],
    [[60.0, 90.0], [50.0, 85.0], [45.0, 80.0]],
    [Change(-20.0, (-30.0, -9.96)), Change(-10.0, None)],
    Change(-15.0, (-22.0, -8.0)),
    TEXT,
)


def probed(held_out=HELD, **more):
    made = matrix(**more)
    metrics, reasons = made.metrics | held_out.metrics(), held_out.not_computed
    return replace(made, held_out=held_out, metrics=metrics, not_computed=reasons, formulas=FORMULAS)


def printed(thing, *, width=80):
    console = Console(file=StringIO(), width=width)
    console.print(thing)
    return console.file.getvalue()


def test_the_terminal_has_the_change_with_its_interval_whole_at_80_columns():
    text = printed(rich_matrix(probed()))
    assert "held-out change −15.0 (95 %: −22.0 to −8.0)" in text
    assert "probe scenes 60.0 → 40.0" in text and "probe letters 90.0 → 80.0" in text
    assert "text loss 3.20 → 3.45 per token: +0.25 (95 %: +0.12 to +0.38)" in text
    assert max(map(len, text.splitlines())) <= 80 and "text loss change" not in text


def test_a_run_in_progress_says_what_is_known():
    held = HeldOut(["a"], [[60.0]], [[60.0]], [None], None, TextProbe(3.2, None, 800))
    made = replace(probed(held), R=[[0.0, 0.0]], metrics={})
    text = printed(rich_matrix(made))
    assert "probe a 60.0 → 60.0" in text and "text loss 3.20 per token" in text and "change" not in text


def test_a_comparison_has_one_column_and_says_when_probes_differ(tmp_path):
    rows = compare([probed(), probed(seed=101), matrix("replay")])
    assert [row.shown("held_out_change") for row in rows if row.method == "ewc"] == ["−15.0 ± 0.0"]
    assert "| held-out change |" in as_markdown(rows) and OTHER_PROBES not in as_markdown(rows)
    others = replace(HELD, probes=["scenes", "words"])
    assert OTHER_PROBES in as_markdown(compare([probed(), probed(others, method="replay")]))
    assert "held-out" not in as_markdown(compare([matrix(), matrix("replay")]))


def test_the_page_has_a_table_of_probes(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "matrix.json").write_text(json.dumps(probed().to_dict()))
    page = write_report([tmp_path / "run"], tmp_path / "page.html").read_text()
    for text in ("Held-out abilities", "−20.0 (95 %: −30.0 to −10.0)", "−15.0 (95 %: −22.0 to −8.0)", TEXT_SAYS):
        assert text in page
    plain = write_report([_saved(tmp_path / "plain", matrix())], tmp_path / "page.html").read_text()
    assert "Held-out" not in plain


TEXT_SAYS = "text loss 3.20 → 3.45 per token"


def _saved(folder, made):
    folder.mkdir()
    (folder / "matrix.json").write_text(json.dumps(made.to_dict()))
    return folder


def test_the_page_says_why_there_is_no_change(tmp_path):
    reasons = {"held_out_change": "needs probes (somewhere)", "text_loss_change": "reads no text"}
    made = probed(replace(HeldOut(), scores=[[]] * 3, relaxed=[[]] * 3, not_computed=reasons))
    assert metrics_with_references(made, [made])["held_out_change"] is None
    page = write_report([_saved(tmp_path / "r", made)], tmp_path / "page.html").read_text()
    assert "Not computed: held-out change: needs probes (somewhere)." in page
    assert "Not computed: text loss change: reads no text." in page


def test_files_and_frames(tmp_path):
    pytest.importorskip("pandas")
    found = Matrix.read(_saved(tmp_path / "r", probed()))
    assert found == probed() and found.held_out == HELD
    assert list(found.held_out.to_frame().columns) == ["scenes", "letters"]
    assert found.held_out.to_frame(relaxed=True).loc["2", "scenes"] == 45.0
    result = Result({"ewc": Run("ewc", tmp_path / "r", found)}, tmp_path, tmp_path / "p")
    frame = result.to_frame()
    assert tuple(frame.columns) == COLUMNS and frame.probe.sum() == 6 and len(frame) == 12
    assert frame[frame.probe & (frame.stage == 2)].score.tolist() == [40.0, 80.0]
    assert "held-out change" in result.to_latex()
    assert repr(HELD) == "HeldOut(2 probes, change -15.0, text loss 3.20 before)"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("probes", "scenes"),
        ("probes", [1, 2]),
        ("scores", [[1.0, 2.0]]),
        ("scores", [[1.0, "2"]] * 3),
        ("relaxed", [[1.0]] * 3),
        ("changes", []),
        ("changes", [{"value": None}, None]),
        ("change", {"value": 1.0, "interval": [1.0]}),
        ("text", {"base": 1.0}),
        ("text", {"base": 1.0, "tokens": 3, "last": "1"}),
        ("not_computed", {"a": 1}),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, key, value):
    content = probed().to_dict()
    content["held_out"] = {**content["held_out"], key: value}
    (tmp_path / "matrix.json").write_text(json.dumps(content, default=list))
    with pytest.raises(RunFolderError, match="matrix.json is not the matrix of a run: 'held_out'"):
        Matrix.read(tmp_path)
    with pytest.raises(UserError, match="'held_out' must be an object"):
        Matrix.from_dict({**content, "held_out": [1]})
