"""Pictures for programs and pages: an engine with a queue, and the APIs in front of it."""
