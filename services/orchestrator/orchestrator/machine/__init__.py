"""The machine: pure. No broker, database, clock, randomness or asyncio in this package.

`decide(job, input) -> Decision` is the only way a job changes; everything else carries it out.
"""
