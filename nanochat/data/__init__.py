"""Text in, batches out: sources, tokenizers, the loader, the frozen evaluation set. No torch here."""
