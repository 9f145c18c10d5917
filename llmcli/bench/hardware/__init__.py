"""Facts about the machine: processor, memory, versions and bandwidth."""
