"""Whether data are fit for fine-tuning: a file a measure. Numbers and texts in, numbers out; nothing imports torch."""
