"""The router of a model as a proxy in front of any OpenAI-compatible server that has its adapters.

app.py          the routes: chooses an adapter for each question, forwards, says which
choosing.py     the expert of a question, and the name of its adapter at the server behind
upstream.py     the server behind: requests, streams, and what can go wrong with them
command.py      opens the folder and starts the proxy
"""

from __future__ import annotations
