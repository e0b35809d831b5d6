"""Floor 0: errors, the schema and its dialects, reading and writing."""
