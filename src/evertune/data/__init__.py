"""Samples, tasks and streams, and the readers and builders that make them."""

from evertune.data.stream import Stream, load_stream, stream_names
from evertune.data.task import Sample, Task

__all__ = ["Sample", "Stream", "Task", "load_stream", "stream_names"]
