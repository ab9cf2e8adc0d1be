"""What is measured beside training: whether data are fit for it, and whether it helped. A file a measure; no torch."""
