"""What binds a planned measurement to a launch, and what hardware said about one."""
