"""File formats that hold what a guest boots from; readers know no VMM and no launch."""
