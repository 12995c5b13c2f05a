"""The command line: parse, call one verb, show. Each command imports what it needs when it runs."""
