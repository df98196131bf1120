"""What a table is, and reading tables: files become columns of known kinds."""
