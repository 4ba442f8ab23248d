"""Plan and measure confidential-VM launches."""

__version__ = "0.1.0"
