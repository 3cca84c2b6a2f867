"""The embedded default policy: word tokenizer, architecture, warm start."""
