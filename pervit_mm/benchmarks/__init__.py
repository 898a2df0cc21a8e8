"""Speed, memory, and comparisons at equal time."""
