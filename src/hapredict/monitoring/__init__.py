"""Live counts and late labels become evidence."""
