"""The same fine-tuning job as others would write it: each file is one way, run by `benchmarks/training.py`."""
