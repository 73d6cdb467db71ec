"""The playground in a browser: ask a model and see what it said before and after everything it learned.

runs.py     the runs that are shown: tasks, stages, cells, kept images
bench.py    the one model in memory, at any stage of any run
asking.py   a question to every stage of every run; one model in memory
shown.py    what the page shows, as plain values
pieces.py   the same as HTML, every value escaped
page.py     the page: Gradio's parts, and what happens when they are used
looks.py    the colours and type of the report
uploads.py  the files that were dropped: the only ones that are read, or given to a browser
door.py     who comes in, and with how much
command.py  from folders to a server that listens
"""

from __future__ import annotations
