"""A model behind a page (`playground`) or an endpoint (`server`)."""
