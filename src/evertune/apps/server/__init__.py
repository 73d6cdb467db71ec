"""A model in service behind the chat endpoint that clients know: images and a question in, an answer out.

app.py       the endpoint, its errors, health and metrics
chat.py      what a request says, and what of it is honoured
errors.py    errors as clients of the protocol expect them
batches.py   questions that wait, answered together by one thread; a bounded queue
answering.py what the model makes of a batch
following.py from stage to stage as the folder has them
listening.py who may reach it, and with how much
"""

from __future__ import annotations
