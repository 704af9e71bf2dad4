"""What crosses rooms: one file per family of messages, then its channels.

Law: this package imports pydantic and the standard library only. A change that adds an
optional field stays v1; anything else is a V2 class, a v2 subject and an `upcast`.
No message carries file bytes or personal text: it carries references.
"""
