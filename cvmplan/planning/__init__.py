"""From settings to a plan: defaults, the source, the build."""
