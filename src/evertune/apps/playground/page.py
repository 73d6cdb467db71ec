"""The Gradio page and its event handlers. Its content comes from `view_models` and `fragments`.

Buttons in our own HTML carry their action in data-* attributes, which one listener sends as an event. Received values
are not trusted: they are only numbers and names that are looked up.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import zip_longest
from typing import Any

import gradio as gr
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from evertune.apps.playground.access import FILES, UPLOAD, AccessMiddleware
from evertune.apps.playground.events import Events
from evertune.apps.playground.fragments import Fragments
from evertune.apps.playground.inference import StageInference, image_at, query_of
from evertune.apps.playground.model_session import ModelSession
from evertune.apps.playground.runs import ExampleQuestions, Run
from evertune.apps.playground.theme import style_sheet, theme
from evertune.apps.playground.uploads import Uploads, refuse_foreign
from evertune.apps.playground.view_models import MARKS, PAGE, Form, RunPredictions, answers_of, choices_of, matrix_of
from evertune.utils.errors import DataError, UserError

LISTEN = """
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-act]');
  if (button) trigger(button.dataset.act === 'ask' ? 'select' : 'click', {...button.dataset});
});
"""
Sent = dict[str, Any] | None
"""An image as Gradio's page sends it. Gradio does not open it (`preprocess=False`): our own limits come first."""
SESSIONS, WAITING = 64, 64  # pages that Gradio remembers, and events that wait: each may hold a whole request
MULTIPART = 64 << 10  # bytes around a file in a form
HOURLY = 3600  # seconds: how often, and from what age on, dropped images are deleted
FORMS: list[tuple[str, Form]] = [("strictly", "strict"), ("in any form", "relaxed")]


SEALED = {"content-security-policy": "default-src 'none'; sandbox"}
"""Of a file that was dropped: opened by itself, nothing of it runs."""


def piece(value: str = "", **how: Any) -> gr.HTML:
    """A part of the page that is HTML of ours."""
    return gr.HTML(value, js_on_load=LISTEN, apply_default_css=False, **how)


class Playground:
    """The event handlers of the page.

    Args:
        runs: what is shown.
        session: their model.
        tokens: longest answer.
        uploads: the store of uploaded and chosen images.
    """

    def __init__(self, runs: Sequence[Run], session: ModelSession, *, tokens: int, uploads: Uploads) -> None:
        self.runs, self.uploads = list(runs), uploads
        self.kept = ExampleQuestions(runs)
        self.version = 0
        self.pieces = Fragments()
        self._inference = StageInference(runs, session, tokens=tokens)

    @property
    def last(self) -> int:
        """The last stage of the longest run."""
        return max(len(run.stages) for run in self.runs)

    @property
    def stages(self) -> list[tuple[str, int]]:
        """The stages to choose from, by name; runs that learned other tasks at a stage give all their names."""
        names = zip_longest(*(run.stage_names for run in self.runs))
        return [(" / ".join(dict.fromkeys(filter(None, each))), number) for number, each in enumerate(names)]

    def rendered(self, predictions: list[RunPredictions] | None, at: Any) -> tuple[str, str]:
        """HTML of the predictions around stage `at`, and of those at all stages."""
        if not predictions:
            return "", ""
        usable = isinstance(at, int | float) and 0 <= at <= self.last
        stage = int(at) if usable else self.last
        return self.pieces.turn(predictions, stage), self.pieces.stages(predictions, stage)

    def refresh(self) -> None:
        """Reload runs that other processes have trained further or rolled back.

        Raises:
            UserError: all stages of a run were rolled back. RunFolderError: a run is damaged.
        """
        runs = self._inference.refresh()
        if any(new is not old for new, old in zip(runs, self.runs, strict=True)):
            self.runs, self.kept = runs, ExampleQuestions(runs)
            self.version += 1

    def current(self, version: int, form: Form) -> tuple[Any, ...]:
        """Updates for a page rendered at `version`: (version, notice, title, stages, tasks, heat maps)."""
        try:
            self.refresh()
        except UserError as problem:
            return version, self.pieces.notice(str(problem)), *[gr.skip()] * 4
        if version == self.version:
            return version, *[gr.skip()] * 5
        tasks = gr.Dropdown(self.kept.tasks, value=next(iter(self.kept.tasks), None))
        stages = gr.Radio(self.stages, value=self.last)
        return self.version, gr.skip(), self.pieces.head(self.runs), stages, tasks, self.matrices(form)

    def ask(self, image: Sent, words: Any, task: Any, at: Any) -> Iterator[tuple[Any, ...]]:
        """Query every stage; yields (state, notice, around the stage, all stages) after each prediction."""
        try:
            task = task if isinstance(task, str) else None
            query = query_of(self.uploads.path_of(image), words if isinstance(words, str) else "", task)
        except UserError as problem:
            yield None, self.pieces.notice(str(problem)), "", ""
            return
        gold = self.kept.found(query.sha, query.words)
        predictions = [RunPredictions(run.name, tuple(run.stage_names)) for run in self.runs]
        yield predictions, self.pieces.notice(), *self.rendered(predictions, at)
        for run, _, reply in self._inference.replies(query):
            predictions = [
                each.and_then(reply, gold) if place == run else each for place, each in enumerate(predictions)
            ]
            yield predictions, self.pieces.notice(), *self.rendered(predictions, at)

    def dropped(self, image: Sent) -> str:
        """A notice if the uploaded image can't be used."""
        try:
            image_at(self.uploads.path_of(image))
        except UserError as problem:
            return self.pieces.notice(str(problem))
        return self.pieces.notice()

    def choices(self, task: str | None, count: int = PAGE) -> str:
        """The test images of a task that the run stores."""
        return self.pieces.choices(task, choices_of(self.kept, task, count)) if task else ""

    def pick(self, event: gr.EventData) -> tuple[Any, ...]:
        """The user chose a test question, or wants to see more: (image, words, images to choose from, notice)."""
        task, place = _word(event, "task"), _number(event, "place")
        if _word(event, "act") == "more-images":
            return gr.skip(), gr.skip(), self.choices(task, _number(event, "count")), gr.skip()
        samples = self.kept.of(task)
        if not 0 <= place < len(samples):
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        sample = samples[place]
        try:
            image = str(self.uploads.keep(sample.images[0]))
        except UserError as problem:
            return None, sample.instruction, gr.skip(), self.pieces.notice(str(problem))
        return image, sample.instruction, gr.skip(), self.pieces.notice()

    def matrices(self, form: Form, chosen: tuple[int, int, int] | None = None) -> str:
        """All heat maps."""
        return self.pieces.matrices([matrix_of(n, run, form) for n, run in enumerate(self.runs)], chosen)

    def cell(self, form: Form, event: gr.EventData) -> tuple[Any, Any]:
        """The user opened a cell, a kind of its answers, or more of them: (heat maps, answers)."""
        run, stage, task = (_number(event, key) for key in ("run", "stage", "task"))
        if not 0 <= run < len(self.runs):
            return gr.skip(), gr.skip()
        kind = _word(event, "kind") if _word(event, "kind") in MARKS else "all"
        count = max(PAGE, _number(event, "count"))
        try:
            found = answers_of(run, self.runs[run], self.kept, stage=stage, task=task, kind=kind, count=count)
        except UserError as problem:
            return gr.skip(), self.pieces.notice(str(problem))
        return self.matrices(form, (run, stage, task)), self.pieces.answers(found)


def _number(event: gr.EventData, key: str) -> int:
    text = _word(event, key)
    return int(text) if text.isdecimal() and len(text) < 10 else -1


def _word(event: gr.EventData, key: str) -> str:
    value = event._data.get(key) if isinstance(event._data, dict) else None
    return value if isinstance(value, str) else ""


class Page(gr.Blocks):  # type: ignore[misc]  # Gradio has no types here
    """A page that checks every value before Gradio opens, hashes, copies or fetches the file that it names."""

    uploads: Uploads

    def bound(self) -> None:
        """Bound what its visitors may leave waiting."""
        self.queue(max_size=WAITING)
        self._queue.__class__ = Events  # Gradio has no option for another class
        self.state_session_capacity = SESSIONS

    def validate_inputs(self, block_fn: Any, inputs: list[Any]) -> None:
        """Called by Gradio with what was sent, for every event."""
        super().validate_inputs(block_fn, inputs)
        try:
            refuse_foreign(self.uploads, [isinstance(part, gr.Image) for part in block_fn.inputs], inputs)
        except DataError as problem:
            raise gr.Error(str(problem), print_exception=False) from problem


def page_of(ground: Playground) -> Page:
    """The page with its listeners."""
    page = Page(title="evertune", analytics_enabled=False)
    page.uploads = ground.uploads
    with page:
        head = piece(ground.pieces.head(ground.runs))
        version = gr.State(ground.version)
        predictions = gr.State(None)
        first = ground.kept.tasks[0] if ground.kept.tasks else None
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280):
                image = gr.Image(
                    label="Image", sources=["upload", "clipboard"], height=260, buttons=[], elem_id="image"
                )
                task = gr.Dropdown(
                    ground.kept.tasks, value=first, label="or a test image of", filterable=False, elem_id="task"
                )
                choices = piece(ground.choices(first), elem_id="choices")
            with gr.Column(scale=3, min_width=280):
                words = gr.Textbox(label="Question", lines=1, max_lines=6, elem_id="question")
                ask = gr.Button("Ask every stage", variant="primary", elem_id="ask")
                notice = piece(ground.pieces.notice(), elem_id="notice")
                stage = gr.Radio(
                    ground.stages, value=ground.last, label="Before and after learning this task", elem_id="stage"
                )
                turn = piece(elem_id="turn")
        stages = piece(elem_id="stages")
        piece(ground.pieces.matrix_head())
        form = gr.Radio(FORMS, value="strict", label="Scored", elem_id="form")
        maps = piece(ground.matrices("strict"), elem_id="maps")
        answers = piece(elem_id="answers")

        event: dict[str, Any] = {
            "preprocess": False,
            "inputs": [image, words, task, stage],
            "outputs": [predictions, notice, turn, stages],
        }
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        fresh: dict[str, Any] = {"inputs": [version, form], "outputs": [version, notice, head, stage, task, maps]}
        page.load(ground.current, **fresh, **quiet)
        for wants in (ask.click, words.submit):
            wants(ground.current, **fresh, **quiet).then(ground.ask, **event, **quiet)
        image.upload(ground.dropped, image, notice, preprocess=False, **quiet)
        task.change(ground.choices, task, choices, **quiet)
        choices.click(ground.pick, None, [image, words, choices, notice], **quiet)
        stage.change(ground.rendered, [predictions, stage], [turn, stages], trigger_mode="always_last", **quiet)
        stages.click(_stage_of, None, stage, **quiet)
        form.change(ground.matrices, form, maps, **quiet)
        maps.click(ground.cell, form, [maps, answers], **quiet)
        answers.click(ground.cell, form, [maps, answers], **quiet)
        picked = answers.select(ground.pick, None, [image, words, choices, notice], **quiet)
        picked.success(ground.ask, **event, **quiet)
    page.bound()
    return page


def _stage_of(event: gr.EventData) -> Any:
    """The choice follows a stage that was chosen in the table."""
    number = _number(event, "stage")
    return number if number >= 0 else gr.skip()


async def _delete_old(uploads: Uploads) -> None:
    """Gradio's own deletion knows uploads only that were finished."""
    while True:
        await asyncio.sleep(HOURLY)
        await run_in_threadpool(uploads.delete_old, HOURLY)


def mounted(page: Page, *, token: str | None, largest: int) -> AccessMiddleware:
    """The page behind the access middleware. Uploaded files are deleted when the server stops.

    Args:
        page: what `page_of` made.
        token: what callers must send.
        largest: bytes of a request, and of an image.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        deleting = asyncio.create_task(_delete_old(page.uploads))
        yield
        deleting.cancel()
        shutil.rmtree(page.uploads.folder, ignore_errors=True)

    async def upload(request: Request) -> list[str]:  # Gradio's own opens a file for each of a thousand parts
        async with request.form(max_files=1, max_fields=1) as form:
            sent = form.get("files")
            if not isinstance(sent, UploadFile):
                raise HTTPException(400, "there is no file")
            return [str(await run_in_threadpool(page.uploads.take, sent.file))]

    async def progress() -> Response:  # the page requests it, but our uploads end before there is progress to report
        return Response(media_type="text/event-stream")

    def file(path: str) -> Response:  # before Gradio's own, which goes by names
        try:
            content, kind = page.uploads.given(path)
        except DataError:
            return Response(status_code=404, headers=SEALED)
        download = {} if kind else {"content-disposition": "attachment"}
        return Response(content, media_type=kind or "application/octet-stream", headers=SEALED | download)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route(UPLOAD, upload, methods=["POST"])
    app.add_api_route(f"{UPLOAD}_progress", progress)
    app.add_api_route(f"{FILES}{{path:path}}", file, methods=["GET", "HEAD"])
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=largest,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=style_sheet(),
    )
    page.has_launched = True  # Gradio checks paths only then, and does not set it for a mounted page
    return AccessMiddleware(app, token=token, largest=largest + MULTIPART)
