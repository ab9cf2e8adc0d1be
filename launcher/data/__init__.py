"""Reading data files and keeping the prepared data. Nothing here imports torch or transformers at module level."""
