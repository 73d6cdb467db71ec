"""The report says what the matrix says: numbers by hand, nothing from a model or a data set becomes markup."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from report_runs import DIRECT, JOINT, REPLAY, SEQUENTIAL, Page, make_run
from rich.console import Console

from evertune.reporting.examples import Thumbnails, examples_of
from evertune.reporting.headline import headline
from evertune.reporting.labels import duration, number
from evertune.reporting.matrix import load_matrix
from evertune.reporting.page import write_report
from evertune.reporting.plots import (
    average_curve,
    forgetting_by_task,
    heat_map,
    learned_averages,
    spread_apart,
    task_forgetting,
)
from evertune.reporting.tables import as_markdown, compare, rich_matrix, rich_table
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.sizes import size

XSS = "<script>alert(1)</script>"


def test_compare_gives_hand_computed_numbers_in_order(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "d", DIRECT, method="direct"),
        make_run(tmp_path / "j", JOINT, method="joint"),
        make_run(tmp_path / "r", REPLAY, method="replay"),
        make_run(tmp_path / "s", SEQUENTIAL),
    ]
    rows = compare([load_matrix(run) for run in runs])
    assert [row.method for row in rows] == ["zero-shot", "sequential", "replay", "joint", "direct"]
    zero, sequential, replay, joint, direct = (row.values for row in rows)
    assert zero["final_average"].mean == pytest.approx(5.0)
    assert zero["forgetting"] is None
    assert sequential["final_average"].mean == pytest.approx(160 / 3)
    assert sequential["learning_accuracy"].mean == pytest.approx(80.0)
    assert sequential["forgetting"].mean == pytest.approx((50 + 30) / 2)
    assert sequential["bwt"].mean == pytest.approx(-40.0)
    assert sequential["intransigence"].mean == pytest.approx((0 + 6 + 5) / 3)
    assert sequential["relative_average"].mean == pytest.approx((30 / 80 + 60 / 96 + 70 / 75) / 3)
    assert sequential["gap_to_joint"].mean == pytest.approx((79 + 92 + 72) / 3 - 160 / 3)
    assert replay["forgetting"].mean == pytest.approx(4.0)
    assert joint["final_average"].mean == pytest.approx(81.0)
    assert joint["learning_accuracy"] is None and joint["forgetting"] is None
    assert direct["learning_accuracy"].mean == pytest.approx((80 + 96 + 75) / 3)
    assert direct["forgetting"] is None
    assert rows[-1].shown("final_average") == "27.0†" and "R*" in rows[-1].note
    assert rows[1].train_seconds == pytest.approx(300.2)


def test_seeds_give_mean_and_sample_deviation(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "0", SEQUENTIAL), make_run(tmp_path / "1", REPLAY, seed=1)]
    row = compare([load_matrix(run) for run in runs])[1]
    assert row.seeds == (0, 1)
    forgetting = row.values["forgetting"]
    assert forgetting is not None
    assert forgetting.mean == pytest.approx(22.0)
    assert forgetting.deviation == pytest.approx((2 * 18**2) ** 0.5)  # 40 and 4 around 22, over n - 1 = 1
    assert row.shown("forgetting") == "22.0 ± 25.5"


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    row = compare([load_matrix(make_run(tmp_path / "0", SEQUENTIAL))])[1]
    assert row.values["forgetting"] is not None and row.values["forgetting"].deviation is None
    assert row.shown("forgetting") == "40.0"


def test_references_are_of_the_same_seed_and_stream(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "s", SEQUENTIAL),
        make_run(tmp_path / "j", JOINT, method="joint", seed=1),
        make_run(tmp_path / "o", JOINT, method="joint", stream="other"),
    ]
    row = next(r for r in compare([load_matrix(run) for run in runs]) if r.method == "sequential")
    assert row.values["gap_to_joint"] is None


def test_a_bound_with_some_seeds_only_is_said(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "s0", SEQUENTIAL),
        make_run(tmp_path / "s1", SEQUENTIAL, seed=1),
        make_run(tmp_path / "j", JOINT, method="joint"),
    ]
    row = compare([load_matrix(run) for run in runs])[1]
    assert row.values["gap_to_joint"] is not None
    assert "seeds" in row.note


def test_same_seed_twice_is_two_variants_not_two_seeds(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "weak", SEQUENTIAL, method="replay"),
        make_run(tmp_path / "strong", REPLAY, method="replay"),
    ]
    rows = compare([load_matrix(run) for run in runs])
    assert [row.method for row in rows] == ["zero-shot", "replay (weak)", "replay (strong)"]
    assert all(len(row.seeds) == 1 for row in rows)


def test_runs_in_progress_are_named_and_not_averaged(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "s", SEQUENTIAL[:2]),
        make_run(tmp_path / "r", REPLAY, method="replay"),
        make_run(tmp_path / "r1", REPLAY[:3], method="replay", seed=1),
    ]
    rows = {row.method: row for row in compare([load_matrix(run) for run in runs])}
    assert rows["sequential"].values["final_average"] is None
    assert rows["sequential"].note == "sequential is in progress: 1 of 3 stages"
    assert rows["replay"].seeds == (0,) and rows["replay"].unfinished == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "missing"),
        ("{", "not valid JSON"),
        ("[1]", "expected an object"),
        ('{"format": 9}', "format 9"),
        ('{"format": 2, "model": "m"}', "'stream' is missing"),
    ],
)
def test_a_bad_matrix_is_named(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "matrix.json").write_text(content)
    with pytest.raises(RunFolderError, match=says) as caught:
        load_matrix(tmp_path)
    assert str(tmp_path / "matrix.json") in str(caught.value)


@pytest.mark.parametrize("R", [[], [[1.0, 2.0]], [[1.0, 2.0, float("nan")]], [[1.0] * 3] * 5, "text"])
def test_scores_that_are_no_matrix_are_refused(tmp_path: Path, R: Any) -> None:
    run = make_run(tmp_path / "run", SEQUENTIAL)
    (run / "matrix.json").write_text(json.dumps(json.loads((run / "matrix.json").read_text()) | {"R": R}))
    with pytest.raises(RunFolderError, match=re.escape("matrix.json")):
        load_matrix(run)


def test_a_file_instead_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError):
        load_matrix(tmp_path / "file")


def test_no_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        write_report([], tmp_path / "out.html")


@pytest.mark.slow
def test_the_page_has_the_numbers(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "s", SEQUENTIAL), make_run(tmp_path / "r", REPLAY, method="replay")]
    out = write_report(runs, tmp_path / "deep" / "index.html")
    page = Page(out)
    assert "sequential lost 40 points of what it had learned; replay 4." in page.text
    for expected in ("53.3", "−40.0", "1,534,720", "12.3 kB", "5 min 0 s", "1/T Σ_i R[T,i]", "<image>what?"):
        assert expected in page.text, expected
    assert sum(tag == "image" for tag, _ in page.tags) == 1  # both images are alike: embedded once


@pytest.mark.slow
def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    out = write_report([make_run(tmp_path / "s", SEQUENTIAL)], tmp_path / "out.html")
    page = Page(out)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "img"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:image/")), (tag, target)
    assert "url(http" not in out.read_text() and "@import" not in out.read_text()
    policy = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    css = out.read_text().split("<style>")[1].split("</style>")[0]
    sha = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    assert policy == [
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; style-src-elem 'sha256-{sha}'; "
        "style-src-attr 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    ]


@pytest.mark.slow
def test_every_reference_in_the_page_has_its_target(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "s", SEQUENTIAL), make_run(tmp_path / "r", REPLAY, method="replay")]
    page = Page(write_report(runs, tmp_path / "out.html"))
    names = {a["id"] for _, a in page.tags if "id" in a}
    assert {a["href"] for _, a in page.tags if (a.get("href") or "").startswith("#")} <= {f"#{name}" for name in names}


@pytest.mark.slow
def test_nothing_becomes_markup(tmp_path: Path) -> None:
    tasks = [XSS, '"><img src=x onerror=alert(2)>', "$x^2$ & co"]
    run = make_run(
        tmp_path / "<b>run",
        SEQUENTIAL,
        method="<i>m</i>",
        tasks=tasks,
        answer=XSS,
        image="<script>.png",
        warnings=[XSS],
        stream=XSS,
        model="'\"><u>",
    )
    (run / "provenance.json").write_text(json.dumps({XSS: XSS}))
    page = Page(write_report([run], tmp_path / "out.html"))
    assert not {tag for tag, _ in page.tags} & {"script", "img", "i", "u"}
    assert not [a for _, a in page.tags if "onerror" in a]
    assert XSS in page.text
    # a page must not print raw markup in its source either
    assert "<script" not in (tmp_path / "out.html").read_text()


def test_terminal_tables_take_names_literally(tmp_path: Path) -> None:
    run = make_run(tmp_path / "s", SEQUENTIAL, tasks=["[red]a", "[/]b", "c|d"], stream="[bold]", method="m|n")
    matrix = load_matrix(run)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(rich_matrix(matrix))
    console.print(rich_table(compare([matrix])))
    text = console.export_text()
    assert "[red]a" in text and "[/]b" in text and "80.0" in text and "53.3" in text
    assert "m\\|n" in as_markdown(compare([matrix]))


def test_the_metrics_take_the_width_of_the_terminal(tmp_path: Path) -> None:
    """Not that of the table, which is narrow when there is one task."""
    matrix = load_matrix(make_run(tmp_path / "s", [[0.0], [71.4]], tasks=["a"]))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(rich_matrix(matrix))
    line = next(line for line in console.export_text().splitlines() if line.startswith("final average"))
    assert "mean average 71.4 · learning accuracy 71.4" in line


def test_markdown_is_a_table(tmp_path: Path) -> None:
    lines = as_markdown(compare([load_matrix(make_run(tmp_path / "s", SEQUENTIAL))])).splitlines()
    assert (
        lines[0] == "| method | seeds | final average | learning accuracy | forgetting | backward transfer | training |"
    )
    assert lines[2] == "| zero-shot | 1 | 5.0 | - | - | - | - |"
    assert lines[3] == "| sequential | 1 | 53.3 | 80.0 | 40.0 | −40.0 | 5 min 0 s |"


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_run_in_progress_has_a_page(tmp_path: Path, rows: int) -> None:
    run = make_run(tmp_path / "s", SEQUENTIAL[:rows], metrics={})
    page = Page(write_report([run], tmp_path / "out.html"))
    assert f"{rows - 1} of 3 stages" in page.text
    assert "not learned yet" in page.text


@pytest.mark.slow
@pytest.mark.parametrize("method", ["joint", "direct"])
def test_bounds_have_a_page(tmp_path: Path, method: str) -> None:
    run = make_run(tmp_path / "x", JOINT if method == "joint" else DIRECT, method=method)
    assert f"{method}, seed 0" in Page(write_report([run], tmp_path / "out.html")).text


@pytest.mark.slow
def test_a_single_task_has_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "x", [[10.0], [80.0]], tasks=["only"])
    assert "Average over all tasks at the end: sequential 80" in Page(write_report([run], tmp_path / "o.html")).text


@pytest.mark.slow
def test_missing_answers_images_and_stamp_are_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "s", SEQUENTIAL)
    (run / "provenance.json").unlink()
    (run / "image.png").unlink()
    (run / "answers" / "03" / "0.jsonl").unlink()
    (run / "answers" / "03" / "1.jsonl").write_bytes(b"\xff\xfe{")
    text = Page(write_report([run], tmp_path / "out.html")).text
    assert str(run / "answers" / "03" / "0.jsonl") in text
    assert "is damaged" in text and "no image: image.png" in text and "provenance.json is missing" in text


@pytest.mark.slow
def test_two_writes_are_identical(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "s", SEQUENTIAL), make_run(tmp_path / "r", REPLAY, method="replay")]
    first = write_report(runs, tmp_path / "1.html").read_bytes()
    assert first == write_report(runs, tmp_path / "2.html").read_bytes()


@pytest.mark.slow
def test_half_a_surrogate_pair_does_not_stop_the_page(tmp_path: Path) -> None:
    write_report([make_run(tmp_path / "s", SEQUENTIAL, answer="\ud800")], tmp_path / "out.html").read_text()


def test_examples_put_changed_answers_first_and_mark_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "s", SEQUENTIAL)
    examples = examples_of(run, load_matrix(run), "shapes", Thumbnails())
    assert (examples.total, examples.forgotten, examples.regained) == (2, 1, 0)
    changed, kept = examples.rows
    assert (changed.change, changed.before.mark, changed.after.mark) == ("forgotten", "right", "form")
    assert (kept.change, kept.after.mark) == ("", "right")
    last = examples_of(run, load_matrix(run), "names", Thumbnails())
    assert last.before == "base model" and last.regained == 1


def test_thumbnails_are_small_and_embedded_once(tmp_path: Path) -> None:
    Image.effect_noise((400, 200), 60).save(tmp_path / "large.png")
    Image.effect_noise((40, 20), 60).save(tmp_path / "small.png")
    images = Thumbnails()
    names = [images.name_of(str(tmp_path / name)) for name in ("large.png", "small.png", "large.png", "none.png")]
    assert names == ["image-1", "image-2", "image-1", None]
    sizes = []
    for uri in images.uris.values():
        with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
            sizes.append(image.size)
    assert sizes == [(96, 48), (40, 20)]


@pytest.mark.slow
def test_experts_are_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "e", REPLAY, method="eproj")
    matrix = json.loads((run / "matrix.json").read_text())
    for cell in matrix["cells"]:
        if cell["stage"] == 3:
            cell["experts"] = {cell["task"]: 97, "other": 3}
    (run / "matrix.json").write_text(json.dumps(matrix))
    assert "291 of 300" in Page(write_report([run], tmp_path / "out.html")).text


@pytest.mark.slow
def test_plots_show_the_scores(tmp_path: Path) -> None:
    matrix = load_matrix(make_run(tmp_path / "s", SEQUENTIAL))
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", heat_map(matrix))
    assert {"80", "90", "70", "base", "numbers"} <= set(texts)
    assert learned_averages(matrix) == pytest.approx([80, 70, 160 / 3])
    assert task_forgetting(matrix) == pytest.approx([50, 30])
    assert "50 sequential" in forgetting_by_task([matrix]) and "sequential 53" in average_curve([matrix])
    assert "#000000" not in heat_map(matrix) and "currentColor" in heat_map(matrix)
    assert "DejaVu" not in heat_map(matrix) and "font-size: 13px" in heat_map(matrix)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 7, 20])
def test_heat_map_holds_its_labels(tmp_path: Path, count: int) -> None:
    tasks = [f"quite-a-long-name-{i}" for i in range(count)]
    matrix = load_matrix(make_run(tmp_path / "s", [[100.0] * count] * (count + 1), tasks=tasks))
    svg = heat_map(matrix)
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    places = re.findall(r"<text[^>]*?translate\(([-\d.]+) ([-\d.]+)\)", svg) + re.findall(
        r'<text[^>]*? x="([-\d.]+)" y="([-\d.]+)"', svg
    )
    assert len(places) >= count * (count + 1) + 2 * count + 1
    for x, y in places:
        assert 0 <= float(x) <= width and 0 <= float(y) <= height


def test_direct_and_joint_curves(tmp_path: Path) -> None:
    direct = load_matrix(make_run(tmp_path / "d", DIRECT, method="direct"))
    joint = load_matrix(make_run(tmp_path / "j", JOINT, method="joint"))
    assert learned_averages(direct) == pytest.approx([80, 88, 251 / 3])
    assert learned_averages(joint) == pytest.approx([81, 81, 81])
    assert task_forgetting(direct) is None and task_forgetting(joint) is None


def test_labels_keep_their_distance() -> None:
    placed = spread_apart({"a": 100.0, "b": 101.0, "c": 250.0, "d": 251.0}, gap=15, low=8, high=252)
    ordered = sorted(placed.values())
    assert all(later - earlier >= 15 for earlier, later in pairwise(ordered))
    assert min(ordered) >= 8 and max(ordered) <= 252


def test_headline_calls_a_gain_a_gain(tmp_path: Path) -> None:
    better = [[10.0, 0.0], [50.0, 0.0], [53.0, 90.0]]
    rows = compare([load_matrix(make_run(tmp_path / "s", better, method="replay", tasks=["a", "b"]))])
    assert headline(rows).startswith("replay gained 3 points on what it had learned.")


def test_headline_names_the_bounds_and_says_when_nothing_is_finished(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "s", SEQUENTIAL),
        make_run(tmp_path / "j", JOINT, method="joint"),
        make_run(tmp_path / "d", DIRECT, method="direct"),
    ]
    assert headline(compare([load_matrix(run) for run in runs])) == (
        "sequential lost 40 points of what it had learned. Average over all tasks at the end: sequential 53 "
        "(the base model 5; training on everything at once 81; each task tuned alone 84)."
    )
    begun = compare([load_matrix(make_run(tmp_path / "b", SEQUENTIAL[:1]))])
    assert headline(begun) == "No run is finished yet. Average over all tasks: the base model 5."


def test_words() -> None:
    assert [duration(s) for s in (8.24, 59.99, 300.2, 7500)] == ["8.2 s", "60.0 s", "5 min 0 s", "2 h 5 min"]
    assert [size(n) for n in (512, 12345, 4_500_000, 2e9)] == ["512 bytes", "12.3 kB", "4.5 MB", "2.0 GB"]
    assert number("bwt", -0.01) == "0.0" and number("bwt", -41.26) == "−41.3" and number("bwt", None) == "-"
