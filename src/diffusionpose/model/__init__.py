"""The paper's networks and losses: shapes and equations, no files but weights."""
