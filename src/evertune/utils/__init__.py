"""What knows nothing of models and tasks: files, locks, parsing, processes, errors."""
