"""Real servers for tests: NATS, PostgreSQL, S3, and a receiver of traces."""
