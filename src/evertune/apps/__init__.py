"""The applications: a page in the browser (`playground`) and a chat endpoint (`server`)."""
