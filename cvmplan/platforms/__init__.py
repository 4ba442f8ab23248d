"""One package a platform: its operations, steps, planner and digest, and its own structures."""
