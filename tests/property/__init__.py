"""Properties: random launches and maps against models that are slow and plain."""
