"""What the machine is and reaches: its name, its memory and its bandwidth."""
