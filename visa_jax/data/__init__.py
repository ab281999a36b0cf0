"""Data: tokenizer, templates, batches and sources of text."""
