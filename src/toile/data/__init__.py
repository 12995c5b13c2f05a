"""Pictures and words: sources of records, captions made from them, and the split that keeps scores honest."""
