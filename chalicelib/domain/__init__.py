"""What the pipeline computes: pure values and functions, without AWS, a web framework or a clock."""
