"""An executor that knows the printed calls of a plan alone, and models of what obeys them."""
