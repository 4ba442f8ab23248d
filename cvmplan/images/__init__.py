"""File formats that hold guest memory: readers that know no VMM; they import `launch` and below."""
