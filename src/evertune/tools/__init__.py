"""What one does beside training: data tools, rescoring, export."""
