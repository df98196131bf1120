"""Requests become predictions: protocols, routing, engine, replica, journal."""
