"""The homework of each lesson: its exercises and the mistakes that are known by name."""
