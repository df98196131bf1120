"""Helpers that tests share; none of them is collected."""
