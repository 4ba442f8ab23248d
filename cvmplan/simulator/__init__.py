"""The kernel's state machine and recordings of launches, judged without the planner."""
