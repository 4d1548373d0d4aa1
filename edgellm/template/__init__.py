"""Chat templates of model files, run in Jinja2's sandbox within limits of time and memory."""
