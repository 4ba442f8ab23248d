"""A launch before it is planned: Launch, Guest, Image, and what a loader makes of an IGVM file."""
