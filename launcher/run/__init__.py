"""The run folder: what a run leaves behind and what is shown of it. Nothing here imports torch."""
