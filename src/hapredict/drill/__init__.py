"""Breaking the live system on purpose, and reporting what users saw."""
