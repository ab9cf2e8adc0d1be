"""Reading data files and keeping the prepared data. Nothing here imports torch."""
