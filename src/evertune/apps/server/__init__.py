"""A model in service behind an OpenAI-compatible chat endpoint: images and a question in, a prediction out.

app.py          the routes: chat completions, models, health, metrics
chat.py         the fields of a request, and which of them are supported
guards.py       who may ask, errors as replies, counts: shared with `route`
names.py        the models of a server: its stages and experts, by name
requests.py     from the bytes of a request to a question, with bounded memory
errors.py       error objects of the protocol
batches.py      a bounded queue whose questions one thread answers in batches
generation.py   generates the predictions of a batch
reload.py       loads new stages and rollbacks from the folder
connections.py  time and size limits of each connection
command.py      opens the folder and starts the server
"""

from __future__ import annotations
