"""Matrices and labels become a network and its metrics."""
