"""A plan as the system calls that a VMM makes: records, to be printed or made here."""
