"""The playground in a real Chromium: ask, slide, open a cell; nothing of the data runs, nothing leaves this machine."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator

import pytest
from browsing import CHROMIUM
from PIL import Image
from serving import running

from evertune import service
from evertune.apps.playground import inference as asking
from evertune.apps.playground.command import playground
from evertune.apps.playground.fragments import Fragments
from evertune.apps.playground.model_session import open_runs
from evertune.apps.playground.view_models import PAGE, ImageChoice
from evertune.apps.server.generation import Reply
from evertune.runs.cells import questions_of
from evertune.training.eval_set import kept_task
from evertune.training.stages import AFTER, SEAL, link_of
from evertune.utils.files import digest_of, digest_of_file

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
STAGES = "#stages .prediction"
NASTY = '<img src=x onerror="document.title=1234">${document.title=1234}{{7*7}}'
NASTY_NAME = "<img src=x onerror=document.title=1234>"  # as a file's name, so without a slash


@pytest.fixture(scope="module")
def address(taught):
    with running(playground([taught / "eproj", taught / "sequential"], port=0)) as url:
        yield url


class Visit:
    """A page of the browser, and all that went wrong on it."""

    def __init__(self, browser, url, **context):
        self.context = browser.new_context(**{"viewport": {"width": 1100, "height": 900}, **context})
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.wrong.append(f"{m.text} ({m.location})") if m.type == "error" else None)
        self.page.on("pageerror", lambda problem: self.wrong.append(str(problem)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector("#maps .cell")

    def ask(self, words=None):
        if words is not None:
            self.page.fill("#question textarea", words)
        self.page.click("#ask")

    def predictions(self, count):
        self.page.wait_for_function(f"document.querySelectorAll('{STAGES}').length == {count}")
        return self.page.locator(STAGES).all_inner_texts()

    def warned(self, words):
        self.page.wait_for_function(
            "words => document.querySelector('#notice .notice')?.innerText.includes(words)", arg=words
        )


@pytest.fixture
def visit(browser, address) -> Iterator[Visit]:
    here = Visit(browser, address)
    yield here
    assert here.wrong == [], "no errors on the console"
    strangers = [url for url in here.requests if not url.startswith((address, "data:", "blob:"))]
    assert len(here.requests) > 5 and strangers == [], "no request leaves the host"
    here.context.close()


def test_drop_ask_slide_and_open_a_cell(visit, taught):
    page = visit.page
    sample = json.loads((taught / "eproj" / "eval_set" / "task-0.json").read_text())["test"][0]
    page.set_input_files("#image input[type=file]", taught / "eproj" / "eval_set" / "images" / sample["image"])
    page.wait_for_selector("#image img")
    visit.ask(sample["instruction"])
    predicted = visit.predictions(8)
    rows = page.locator("#stages tbody tr")
    assert rows.count() == 4 and len(set(predicted)) > 1
    assert page.locator("#stages .mark").count() == 8, "the right answer is known by image and words"
    assert "by task-" in page.inner_text("#stages") and " % sure" in page.inner_text("#stages")
    assert page.locator("#turn .when").all_inner_texts()[0] == "before learning task-2"
    # the stage by its name, then by a row of the table
    page.get_by_label("task-1", exact=True).check()
    page.wait_for_function("document.querySelector('#turn .when').innerText == 'before learning task-1'")
    page.click("#stages tbody tr:nth-child(1) button")
    page.wait_for_function("document.querySelector('#turn .when').innerText == 'the base model'")
    assert page.locator("#stages tr.here").inner_text().startswith("0")
    assert page.locator("#turn .answer").all_inner_texts() == predicted[:2]
    page.click("#maps section:nth-of-type(2) .cell >> nth=9")  # sequential, after task-2, task-0
    page.wait_for_selector("#answers .rows li")
    assert "task-0, after task-2 sequential" in page.inner_text("#answers h3").replace("\n", " ")
    assert page.locator("#answers .rows img").count() == page.locator("#answers .rows li").count() > 0
    whole = page.locator("#answers .rows li").count()
    wrong = page.locator("#answers .kinds button", has_text=re.compile("^wrong"))
    wanted = int(wrong.inner_text().split()[-1])
    wrong.click()
    page.wait_for_function(f"document.querySelectorAll('#answers .rows li').length == {wanted}")
    assert 0 < wanted <= whole and page.locator("#answers .mark.wrong").count() == wanted
    page.click("#answers .link >> nth=0")  # this question, to every stage
    page.wait_for_function(
        f"document.querySelector('{STAGES}') && document.querySelectorAll('#stages .mark').length == 8"
    )


def test_strict_and_in_any_form(visit, taught):
    matrix = json.loads((taught / "eproj" / "matrix.json").read_text())
    cells = "#maps section:nth-of-type(1) .cell"
    for form, key in (("strictly", "R"), ("in any form", "relaxed")):
        visit.page.get_by_label(form).check()
        wanted = [f"{score:.0f}" for row in matrix[key] for score in row]
        visit.page.wait_for_function(
            "([cells, wanted]) => [...document.querySelectorAll(cells)].map(c => c.innerText).join() == wanted",
            arg=[cells, ",".join(wanted)],
        )


def test_a_kept_image_is_chosen_and_stays_what_it_is(visit):
    """Byte by byte, or its answer would not be known."""
    page = visit.page
    page.click("#choices button >> nth=1")
    page.wait_for_function("document.querySelector('#question textarea').value.length > 3")
    page.wait_for_selector("#image img")
    visit.ask()
    visit.predictions(8)
    assert page.locator("#stages .mark").count() == 8
    visit.ask("something that nobody asked")
    page.wait_for_function("document.querySelectorAll('#stages .mark').length == 0")
    visit.predictions(8)


def test_everything_by_keyboard(visit):
    """Choose, ask, slide and open a cell without a mouse; what has the focus is seen to have it."""
    page = visit.page

    def tab_to(selector, most=60):
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        pytest.fail(f"{selector} is not reached")

    tab_to("#image button")
    tab_to("#choices button")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#question textarea').value.length > 3")
    tab_to("#ask")
    page.keyboard.press("Enter")
    visit.predictions(8)
    tab_to("#stage input[value='2']")
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('#turn .when').innerText == 'before learning task-1'")
    tab_to("#stages button")
    tab_to("#maps .cell")
    page.keyboard.press("Enter")
    page.wait_for_selector("#answers .rows li")


def test_bad_input_is_told_and_the_page_stays(visit, tmp_path):
    page = visit.page
    visit.ask()
    visit.warned("has no words")
    (tmp_path / "text.png").write_text("no image")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "huge.png")
    for name, says in (("text.png", "broken or not an image"), ("huge.png", "10000 x 10000 pixels")):
        page.set_input_files("#image input[type=file]", tmp_path / name)
        visit.warned(says)
        page.fill("#question textarea", "")
        visit.ask()
        visit.warned("has no words")
        visit.ask("what?")
        visit.warned(says)
        page.click("#image button[aria-label*=lear], #image button[aria-label*=emove]")
    page.evaluate("""() => { const area = document.querySelector('#question textarea');
        area.value = 'x'.repeat(1 << 20); area.dispatchEvent(new Event('input', {bubbles: true})); }""")
    page.click("#ask")
    visit.warned("1,048,576 letters")
    page.click("#choices button >> nth=0")
    chosen = "(({length}) => length > 3 && length < 1000)(document.querySelector('#question textarea').value)"
    page.wait_for_function(chosen)  # the long text has gone
    visit.ask()
    visit.predictions(8)
    assert page.locator("#notice .notice").count() == 0


def test_the_page_follows_a_rollback(browser, taught, tmp_path):
    """The next question is asked of the stages that are left; so is a page that is loaded anew."""
    folder = shutil.copytree(taught / "sequential", tmp_path / "sequential")
    with running(playground([folder], port=0)) as url:
        here = Visit(browser, url)
        page = here.page
        assert page.locator("#maps tbody tr").count() == 4
        service.rollback(folder, 2)
        page.click("#choices button >> nth=0")
        page.wait_for_function("document.querySelector('#question textarea').value.length > 3")
        here.ask()
        assert len(here.predictions(3)) == 3
        page.wait_for_function("document.querySelectorAll('#maps tbody tr').length == 3")
        assert page.locator("#stage label").all_inner_texts() == ["base", "task-0", "task-1"]
        service.rollback(folder, 1)
        page.reload()
        page.wait_for_function("document.querySelectorAll('#maps tbody tr').length == 2")
        assert "task-1" not in page.inner_text("h1 ~ p")
        assert here.wrong == []
        here.context.close()


def test_stages_have_names_and_a_prediction_of_a_cell_its_label(visit):
    page = visit.page
    assert page.locator("#stage label").all_inner_texts() == ["base", "task-0", "task-1", "task-2"]
    assert page.locator("#stage input[type=range], #stage input[type=number]").count() == 0
    page.click("#maps .cell >> nth=0")
    page.wait_for_selector("#answers .rows li")
    labelled = page.locator("#answers .rows li div", has_text=re.compile("^predicted: "))
    assert labelled.count() == page.locator("#answers .rows li").count()


@pytest.mark.parametrize("width", [390, 1100])
def test_more_is_below_the_images_and_words_stay_whole(browser, address, width):
    """The button is outside of what scrolls; a long name widens its column or breaks at a hyphen."""
    here = Visit(browser, address, viewport={"width": width, "height": 844})
    many = [ImageChoice(place, None, f"question {place}") for place in range(PAGE)]
    html = Fragments().choices("task", (many, 76))
    here.page.evaluate("html => { document.querySelector('#choices .ever').outerHTML = html; }", html)
    assert here.page.evaluate("""() => { const list = document.querySelector('#choices .choices');
      const more = document.querySelector('#choices .more').getBoundingClientRect();
      return [list.scrollHeight <= list.clientHeight, more.top >= list.getBoundingClientRect().bottom]; }""") == [
        True,
        True,
    ]
    name = "#maps thead th"
    here.page.evaluate("name => { document.querySelector(name).textContent = 'pictogram-category'; }", name)
    lines = here.page.evaluate(
        """name => { const node = document.querySelector(name).firstChild, range = document.createRange();
      return ['pictogram-', 'category'].map(word => { const start = node.data.indexOf(word);
        range.setStart(node, start); range.setEnd(node, start + word.length);
        return new Set([...range.getClientRects()].map(box => Math.round(box.top))).size; }); }""",
        name,
    )
    assert lines == [1, 1]
    here.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_and_in_the_dark(browser, address, scheme):
    here = Visit(browser, address, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page = here.page
    page.click("#choices button >> nth=0")
    page.wait_for_function("document.querySelector('#question textarea').value.length > 3")
    here.ask()
    here.predictions(8)
    page.click("#maps .cell >> nth=0")
    page.wait_for_selector("#answers .rows li")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    texts = ["h1", "#turn .when",
             "#turn .answer", "#stages .prediction", "#stages .who", "#stages .mark", "#maps .cell",
             "#maps th", "#answers .gold", "#answers .link", "#answers .mark", "#answers .kinds button", "#ask",
             "#question textarea", "#stage label", "#task [data-testid=block-info]"]  # fmt: skip
    faint = {s: c for s in texts if (c := page.evaluate(CONTRAST, s)) < 4.5}
    assert faint == {}
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == (scheme == "dark")
    here.context.close()


# The lowest contrast (WCAG 2) of a text to what is behind it, over all elements of a selector.
CONTRAST = """selector => {
  const part = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const over = (below, colour) => {
    canvas.fillStyle = `rgb(${below})`; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const behind = e => {
    const below = e.parentElement ? behind(e.parentElement) : [255, 255, 255];
    return over(below, getComputedStyle(e).backgroundColor);
  };
  const all = [...document.querySelectorAll(selector)];
  return all.length ? Math.min(...all.map(e => {
    const ground = behind(e), text = over(ground, getComputedStyle(e).color);
    const [a, b] = [light(ground), light(text)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  })) : 0;
}"""


@pytest.fixture
def poisoned(taught, tmp_path):
    """A run whose answers, questions, task and folder are called as an attacker would call them."""
    folder = tmp_path / NASTY_NAME
    shutil.copytree(taught / "sequential", folder)
    open_runs([folder])  # keeps the questions
    old = "task-1"
    for path in sorted(folder.rglob(f"*{old}*"), reverse=True):
        path.rename(path.with_name(path.name.replace(old, NASTY_NAME)))
    for path in (folder / "matrix.json", *folder.glob("eval_set/*.json"), *folder.glob("stages/*/done.json")):
        path.write_text(path.read_text().replace(f'"{old}"', json.dumps(NASTY_NAME)))
    before = None
    for path in sorted(folder.glob("stages/*/done.json")):  # a stranger seals what is sent; the chain is right
        content = {key: value for key, value in json.loads(path.read_text()).items() if key != SEAL}
        if before is not None:
            content[AFTER] = link_of(before)
        path.write_text(json.dumps({**content, SEAL: digest_of(content)}))
        before = content
    for path in folder.glob("eval_set/*.json"):
        content = json.loads(path.read_text())
        for row in content["test"]:
            row |= {"instruction": NASTY, "answers": [NASTY]}
        path.write_text(json.dumps(content))
    for path in folder.glob("answers/*/*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for number, row in enumerate(rows):
            row |= {"instruction": NASTY, "gold": [NASTY], "answer": NASTY, "expert": NASTY, "image": f"{NASTY}.png"}
            row["id"] = row["id"] if number else NASTY  # one whose image is not kept
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    events = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    for event in events:
        cell = event.get("cell", event)
        for key in ("task", "answers"):
            if key in cell:
                cell[key] = cell[key].replace(old, NASTY_NAME)
        if "questions" in cell:
            cell["questions"] = questions_of(kept_task(folder, cell["task"]))
        if "cell" in event:
            event["sha256"] = digest_of_file(folder / cell["answers"])
    (folder / "ledger.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def test_nothing_of_the_data_becomes_part_of_the_page(browser, poisoned, monkeypatch):
    class Says:
        def __init__(self, *_, **__):
            pass

        def refuse(self, question):
            pass

        def __call__(self, questions):
            return [Reply(NASTY, NASTY, 1, 1, ranking=[(NASTY_NAME, 1.0), (NASTY, 0.5)]) for _ in questions]

    monkeypatch.setattr(asking, "BatchGenerator", Says)
    with running(playground([poisoned], port=0)) as url:
        here = Visit(browser, url)
        page = here.page
        assert NASTY_NAME in page.inner_text("h1") and NASTY_NAME in page.inner_text("#maps thead")
        page.click("#task input")
        page.get_by_role("option", name=NASTY_NAME).click()
        page.wait_for_function("document.querySelector('#choices button').dataset.task.startsWith('<img')")
        page.click("#choices button >> nth=0")
        page.wait_for_function("document.querySelector('#question textarea').value.length > 3")
        here.ask()
        assert here.predictions(4) == [NASTY] * 4
        assert f"by {NASTY}, over 99 % sure" in page.inner_text("#stages")
        for number in range(12):  # every cell
            page.click(f"#maps .cell >> nth={number}")
            page.wait_for_function(f"document.querySelectorAll('#maps .cell')[{number}].ariaPressed == 'true'")
            assert NASTY in page.inner_text("#answers .rows")
        assert f"no image: {NASTY}.png" in page.inner_text("#answers .rows")
        page.wait_for_timeout(300)
        assert page.title() != "1234" and page.locator("img[src=x], img[onerror]").count() == 0
        assert here.wrong == []
        here.context.close()


SCRIPT = "<script>document.title = 1234; opener && (opener.document.title = 1234)</script>"


def test_no_file_of_a_hostile_run_is_opened_in_the_browser(browser, poisoned):
    """A report, a page and a drawing of a stranger lie in the run; its matrix is full of markup too."""
    drawing = f"<svg xmlns='http://www.w3.org/2000/svg' onload='document.title=1234'>{SCRIPT}</svg>"
    planted = {"report.html": SCRIPT, "eval_set/images/page.html": SCRIPT, "eval_set/images/drawing.svg": drawing}
    planted |= {f"eval_set/{NASTY_NAME}.html": SCRIPT, "answers/page.html": SCRIPT, "eval_set/images/page.png": SCRIPT}
    for name, content in planted.items():
        (poisoned / name).write_text(content)
    matrix = json.loads((poisoned / "matrix.json").read_text())
    matrix |= {"warnings": [NASTY], "model": NASTY, "metrics": {NASTY: 1.0}, "formulas": {NASTY: NASTY}, "note": NASTY}
    (poisoned / "matrix.json").write_text(json.dumps(matrix))
    with running(playground([poisoned], port=0)) as url:
        here = Visit(browser, url)
        page = here.page
        page.click("#maps .cell >> nth=0")
        page.wait_for_selector("#answers .rows li")
        for name in planted:
            for route in ("gradio_api/file=", "gradio_api/file/", "file=", "static/", ""):
                answer = here.context.request.get(f"{url}/{route}{poisoned / name}")
                assert answer.status in (403, 404) and "1234" not in answer.text(), (route, name)
            with here.context.expect_page() as opened:
                page.evaluate("address => { window.open(address) }", f"{url}/gradio_api/file={poisoned / name}")
            opened.value.wait_for_load_state()
            assert opened.value.title() != "1234"
            opened.value.close()
        page.wait_for_timeout(200)
        assert page.title() == "evertune" and page.locator("img[src=x], img[onerror], script[data-xss]").count() == 0
        assert here.wrong == []
        here.context.close()


def test_a_script_that_gets_into_the_page_does_not_run(browser, address):
    """Should escaping fail somewhere: what the page was not sent with is not run."""
    here = Visit(browser, address)
    for tag in (
        '<img src=x onerror="document.title=1234">',
        '<iframe srcdoc="<script>parent.document.title=1234</script>">',
    ):
        here.page.evaluate("tag => document.body.insertAdjacentHTML('beforeend', tag)", tag)
    here.page.evaluate("""() => { const script = document.createElement('script');
        script.textContent = 'document.title = 1234'; document.body.append(script); }""")
    here.page.wait_for_timeout(300)
    assert here.page.title() == "evertune"
    refused = [text for text in here.wrong if "Content Security Policy" in text]
    assert len(refused) >= 3
    here.context.close()


def test_the_token_is_typed_in_once(browser, taught):
    with running(playground([taught / "sequential"], port=0, token="open sesame&%")) as url:
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        page.get_by_label("Token").fill("wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("[role=alert]")
        page.get_by_label("Token").fill("open sesame&%")
        page.keyboard.press("Enter")
        page.wait_for_selector("#maps .cell")
        page.click("#choices button >> nth=0")
        page.wait_for_function("document.querySelector('#question textarea').value.length > 3")
        page.click("#ask")
        page.wait_for_function(f"document.querySelectorAll('{STAGES}').length == 4")
        context.close()
