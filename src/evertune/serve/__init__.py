"""A model in service behind the chat endpoint that clients know: pictures and a question in, an answer out.

app.py       the endpoint, its errors, health and metrics
chat.py      what a request says: pictures, the question, how long the answer may be
batches.py   questions that wait, answered together by one thread; a bounded queue
answering.py what the model makes of a batch
listening.py who may reach it, and with how much
"""

from __future__ import annotations
