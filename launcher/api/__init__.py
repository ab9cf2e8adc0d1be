"""The same from Python: what `from launcher import …` gives."""
