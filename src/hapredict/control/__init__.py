"""Evidence becomes decisions, and decisions become catalog entries and trainings."""
