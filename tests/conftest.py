"""Fixtures of every test: real servers (see tests/servers)."""

pytest_plugins = ("tests.servers.fixtures",)
