"""Measures around training: data quality before it, and whether it helped after it. One file per measure; no torch."""
