"""Crashes: every boundary fails once (`test_boundaries`), and everything fails at random (`storm`, `just chaos`).

A crash is SIGKILL of a real process. Nothing in the services knows of it: what dies where is said by tables
(`points`), and carried out by a launcher (`victim`) that wraps the functions of the boundaries before it runs the
service's own `main`.
"""
