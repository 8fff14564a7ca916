"""The pictures of the lessons, a module each: they draw what they are given."""
