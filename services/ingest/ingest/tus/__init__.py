"""Uploads that survive: the server's side of tus 1.0 (https://tus.io/protocols/resumable-upload)."""
