"""Measures the stages against references in the same run; machines are noisy, so the ratios are what counts."""
