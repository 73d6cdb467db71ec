"""The index of rows: written once, whole or not at all, read where it is looked at; fingerprints as they were."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from reading_rows import colour, faults, read, write_lines

from evertune.data import Task, load_stream, sources
from evertune.data import image_index as seen
from evertune.data.formats import Row, jsonl
from evertune.data.image_index import HASHED
from evertune.data.prompts import filled
from evertune.data.rows import IndexKey, indexed
from evertune.data.task import ConcatDataset, Sample, Subset, content_digest
from evertune.utils.errors import DataError
from evertune.utils.files import cache_folder, digest, digest_of_file


@pytest.fixture
def path(tmp_path):
    rows = []
    for number in range(12):
        name = colour(tmp_path, f"{number % 5}.png", (number % 5, 0, 0))
        rows.append({"image": name, "instruction": f"{number}?", "answer": str(number)})
    return write_lines(tmp_path / "task.jsonl", *rows)


def plain(samples):
    """The same samples as values, with nothing known beforehand."""
    return tuple(Sample(s.id, s.images, s.instruction, s.answers, s.origin, s.extras) for s in samples)


def test_it_is_a_sequence(path):
    samples, _ = read("jsonl", path)
    values = plain(samples)
    assert len(samples) == 12 and samples[-1] == values[-1] and samples == values and samples != values[:-1]
    assert list(samples[3:9:2]) == list(values[3:9:2]) and samples[:5] == samples[:5][:5]
    assert list(samples.choose(samples.chosen[::-1])) == list(values[::-1])
    with pytest.raises(IndexError):
        samples[12]


def test_the_index_is_made_once_and_again_when_the_file_changes(path, monkeypatch):
    read("jsonl", path)
    monkeypatch.setattr(jsonl, "read_entries", lambda place: pytest.fail("read again"))
    assert len(read("jsonl", path)[0]) == 12
    monkeypatch.undo()
    path.write_text(path.read_text() + '\n{"instruction": "new", "answer": "n", "image": "0.png"}')
    assert len(read("jsonl", path)[0]) == 13


def test_messages_call_the_file_as_the_user_does(path, monkeypatch):
    path.write_text(path.read_text() + "\n{")
    read("jsonl", path)
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(jsonl, "read_entries", lambda place: pytest.fail("read again"))
    samples, (problem,) = read("jsonl", Path("task.jsonl"))
    assert samples[1].origin == "task.jsonl:2" and problem.startswith("task.jsonl:13: not valid JSON")


@pytest.mark.parametrize("change", [{"prompt": "Q: {instruction}"}, {"allow_external_paths": True}, {"split": "test"}])
def test_what_decides_the_rows_is_in_the_key(path, change):
    assert read("jsonl", path)[0].rows.folder != read("jsonl", path, **change)[0].rows.folder


def test_an_interrupted_index_leaves_nothing(path):
    def broken():
        yield Row("1", (), {"instruction": "q"}, ("a",), "x:1")
        raise KeyboardInterrupt

    recipe = IndexKey("jsonl", 1, path, "interrupted", {}, "{instruction}", False, (path,))
    with pytest.raises(KeyboardInterrupt):
        indexed(recipe, broken)
    assert not recipe.folder.exists()
    assert not [p for p in (cache_folder() / "rows").iterdir() if p.name.startswith(f".{recipe.folder.name}")]


def test_reading_holds_no_rows(path, monkeypatch):
    samples, _ = read("jsonl", path)
    read_rows = []
    monkeypatch.setattr(
        "evertune.data.rows.json.loads", lambda text: read_rows.append(1) or json.JSONDecoder().decode(text.decode())
    )
    samples[2:9][:4], len(samples)
    assert not read_rows, "a slice reads nothing"
    _ = samples[5]
    assert len(read_rows) == 1


def test_fingerprints_are_those_of_the_values(path):
    samples, _ = read("jsonl", path)
    values = plain(samples)
    wanted = [digest(digest_of_file(s.images[0]), s.instruction, *s.answers) for s in values]
    assert list(samples[:4].fingerprints()) == wanted[:4], "a part first"
    assert list(samples.fingerprints()) == [s.fingerprint for s in values] == wanted
    assert Task("t", samples[:8], samples[8:]).fingerprint == Task("t", values[:8], values[8:]).fingerprint
    assert list(ConcatDataset([samples[:2], values[2:4]]).fingerprints()) == wanted[:4]
    assert samples[0].known_digests == (digest_of_file(samples[0].images[0]),)


def test_a_copy_with_other_images_has_their_digests(path):
    """Answers and features are cached by them: `replace(sample, images=...)` got those of the old image."""
    samples, _ = read("jsonl", path)
    list(samples.fingerprints())
    one, other = samples[0], samples[1]
    assert one.known_digests and one.images != other.images
    assert replace(one, images=other.images).image_digests == (digest_of_file(other.images[0]),)
    assert replace(one, instruction="what?").known_digests == one.known_digests
    assert replace(replace(one, images=other.images), known_digests=("new",)).image_digests == ("new",)


def test_a_image_is_read_once_and_again_when_it_changed(path, monkeypatch):
    samples, _ = read("jsonl", path)
    before = list(samples.fingerprints())
    monkeypatch.setattr(seen, "read_bytes", lambda *_, **__: pytest.fail("read again"))
    again, _ = read("jsonl", path)
    assert list(again.fingerprints()) == before
    monkeypatch.undo()
    colour(path.parent, "3.png", (99, 99, 99))
    os.utime(path.parent / "3.png", (1, 1))
    changed, _ = read("jsonl", path)
    now = list(changed.fingerprints())
    assert [at for at in range(12) if now[at] != before[at]] == [3, 8]
    (path.parent / "3.png").write_bytes(b"broken")
    assert len(faults(read("jsonl", path)[0])) == 2


def test_a_damaged_table_is_made_again(path):
    samples, _ = read("jsonl", path)
    before = list(samples.fingerprints())
    for table in samples.rows.folder.glob("*-*.npy"):
        table.write_bytes(table.read_bytes()[:90])
    assert list(read("jsonl", path)[0].fingerprints()) == before


def test_known_fingerprints_of_earlier_versions(tmp_path):
    """Runs name their data by these: they were computed before rows were indexed."""
    rows = []
    for number in range(10):
        (tmp_path / f"{number}.ppm").write_bytes(b"P6\n2 2\n255\n" + bytes([number] * 12))
        rows.append({"image": f"{number}.ppm", "instruction": f"what is {number}? ", "answers": [str(number), "ü"]})
    for name, part in (("one", rows), ("train", rows[:6]), ("test", rows[6:])):
        write_lines(tmp_path / f"{name}.jsonl", *part)
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\nknown: [{name: k, data: one.jsonl, test_share: 0.3, score: vqa}]\n"
        "tasks: [{name: a, train: train.jsonl, test: test.jsonl}]\n"
    )
    stream = load_stream(str(path))
    assert stream.fingerprint == "7e0a7bec682d4f70a9d5e1e534f8c9f1bf8ce07a3ef4387934fa4bdb4b291147"
    assert stream.tasks[0].fingerprint == "f57b2a89f342390905a3de7e239629ba64d366a8b2c4e511584f19b84b030121"
    assert stream.tasks[0].train[0].fingerprint == "0f929c177ac183be984f140fb31f64388e10324530908fdcdb326c07afe5892b"
    assert [s.id for s in stream.known[0].test] == ["2", "4", "10"]
    limited = load_stream(str(path), limit=2)
    assert limited.fingerprint == "caee296c84ea7aba40b8409dd537850d75c5d4eb9fd4e5c8a34c6d7ab46f9813"


def test_samples_with_other_numbers_of_images_never_collide():
    a, b = "a" * 64, "b" * 64
    cases = [([a], "q"), ([], "q"), ([a, b], "q"), ([b, a], "q"), ([a], f"{b}q"), ([], a)]
    assert len({content_digest(images, text, ("x",)) for images, text in cases}) == len(cases)
    assert content_digest([a], "q", ("x",)) == digest(a, "q", "x")
    assert content_digest([a], "q", ("x",), {"type": "2D"}) not in {
        digest(a, "q", "x"),
        content_digest([a], "q", ("x", "type", "2D")),
    }


def test_a_sample_comes_back_from_its_row(tmp_path):
    one, two = (tmp_path / "a.png",), (tmp_path / "a.png", tmp_path / "b.png")
    plain = Sample("1", one, "q", ("x", "y")).to_row()
    assert plain == {"id": "1", "image": str(one[0]), "instruction": "q", "answers": ["x", "y"]}
    for images in (one, two, ()):
        for extras in ({}, {"type": "2D"}):
            sample = Sample("1", images, "q", ("x",), "here", extras)
            row = json.loads(json.dumps(sample.to_row()))
            assert Sample.from_row(row, origin="here") == sample
            assert Sample.from_row(row, origin="", path=lambda name: Path("b") / Path(name).name).images == tuple(
                Path("b") / image.name for image in images
            )


@pytest.mark.parametrize("change", [{"id": 1}, {"answers": [None]}, {"answers": "x"}, {"extras": {"a": 1}}])
def test_a_row_that_holds_other_than_texts_is_no_sample(change):
    with pytest.raises(DataError, match="here: a text is something else"):
        Sample.from_row({"id": "1", "images": [], "instruction": "q", "answers": ["x"], **change}, origin="here")


def test_repeated_ids(tmp_path):
    rows = [{"instruction": f"{n}?", "answer": "x", "id": i} for n, i in enumerate(["a", "b", "a", "c", "a", "b"])]
    samples, problems = read("jsonl", write_lines(tmp_path / "t.jsonl", *rows))
    assert [s.instruction for s in samples] == ["0?", "1?", "3?"]
    assert [p.split("jsonl:")[1].split(":")[0] for p in problems] == ["3", "5", "6"]
    assert all("is already used at" in p for p in problems)


def test_picked_and_chained_read_what_is_looked_at(path):
    samples, _ = read("jsonl", path)
    values = plain(samples)
    chained = ConcatDataset([samples, (), values[:3]])
    assert len(chained) == 15 and list(chained) == [*values, *values[:3]]
    assert [chained[at] for at in (0, 11, 12, -1)] == [values[0], values[11], values[0], values[2]]
    assert list(chained[10:14]) == [*values[10:], *values[:2]]
    picked = Subset(samples, [3, 3, 0])
    assert list(picked) == [values[3], values[3], values[0]] and list(picked[1:]) == [values[3], values[0]]
    with pytest.raises(IndexError):
        chained[15]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{instruction}", "{a} {b"),
        ("Q: {question} {instruction}!", "Q: {instruction} {a} {b!"),
        ("{{json}} {question}", "{json} {instruction}"),
        ("{ question } {", "{ question } {"),
        ("plain", "plain"),
    ],
)
def test_a_prompt_is_filled_once(template, text):
    assert filled(template, {"instruction": "{a} {b", "question": "{instruction}"}, origin="x") == text


def test_a_prompt_that_names_an_unknown_field(path):
    samples, problems = read("jsonl", path, prompt="Q: {instructon}")
    assert len(samples) == 0 and "task.jsonl:1: the prompt names '{instructon}'" in problems[0]
    assert "did you mean 'instruction'" in problems[0]


def test_a_missing_image_stops_a_fingerprint(path):
    (path.parent / "2.png").unlink()
    samples, _ = read("jsonl", path)
    samples.look(depth=HASHED)
    with pytest.raises(DataError, match=r"task.jsonl:3: .*2.png"):
        list(samples.fingerprints())
    assert len(samples.whole()) == 10


def test_an_index_is_made_again_when_its_readers_change(tmp_path, monkeypatch):
    """An index in the cache was read by the code of its day: rows that train blind would stay after an update."""

    def version_with(code, layout="x = 1"):
        sources.readers.cache_clear()
        (tmp_path / "tasks" / "marks.py").write_text(code)
        (tmp_path / "layout.py").write_text(layout)
        module = ModuleType("layout")
        module.__file__ = str(tmp_path / "layout.py")
        return sources.readers(module)

    (tmp_path / "tasks").mkdir()
    monkeypatch.setattr(sources, "__file__", str(tmp_path / "tasks" / "sources.py"))
    try:
        before = version_with("a = 1")
        assert before == version_with("a = 1")
        assert len({before, version_with("a = 2"), version_with("a = 1", "x = 2")}) == 3
    finally:
        sources.readers.cache_clear()
