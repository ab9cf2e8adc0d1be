"""What is measured beside training: whether data are fit for it, and whether it helped. No torch."""
