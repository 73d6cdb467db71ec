"""What one does beside training: data tools, rescoring, export, pretraining of the shipped models."""
