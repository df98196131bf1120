"""Summaries that add up, and the plan that turns raw columns into matrices."""
