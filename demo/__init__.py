"""`make demo`: realistic traffic for a running stack, and an exact comparison of what was sent with what it counts."""
