"""The runtime kit: what a service process needs to run, and nothing else.

A closed list. A new file needs three services that use it, and a line in ARCHITECTURE.md.
Of contracts it imports message, channel, topology and errors only.
"""
