"""The playground in a browser: ask a model a question and compare its predictions after each task it learned.

runs.py           the runs on the page: tasks, stages, cells, stored images
model_session.py  the one model in memory, at any stage of any run
inference.py      queries every stage of every run with one question
view_models.py    the content of the page as plain values
fragments.py      the same as HTML; every value is escaped
page.py           the Gradio page and its event handlers
theme.py          colours and fonts, taken from the HTML report
uploads.py        uploaded files: the only files that are read for a visitor or sent to a browser
access.py         authentication, request limits and the content security policy
events.py         Gradio's event queue, made robust
command.py        opens the folders and starts the server
"""

from __future__ import annotations
