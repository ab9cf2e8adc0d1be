"""What will run: processes, engine, the split of the global batch, steps. Nothing here imports torch."""
