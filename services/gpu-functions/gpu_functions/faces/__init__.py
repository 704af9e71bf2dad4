"""Faces: where skin is, and what is done to it."""
