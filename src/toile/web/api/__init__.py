"""What programs speak to: the dialects of OpenAI and of the A1111 web UI, and one of its own, on one engine."""
