"""The engine: jobs in a queue, worker processes that make their pictures, and what is kept of both.

`engine.Engine` is all that those in front of it need; `request.JobRequest` is what they ask for.
"""
