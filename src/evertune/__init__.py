"""evertune teaches a large multimodal model one new task after another, and keeps what it knew."""
