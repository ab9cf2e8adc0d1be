"""What the user asks for: the job file, read and checked. Nothing here imports torch."""
