"""Assembles the parts, runs them, and shuts them down in order."""

WORKER_PROCESS_OPTION = "--worker-process"
"""The hidden option of `dispatcher run` that makes it a worker process; its value is the descriptor of a socket for its parent."""
