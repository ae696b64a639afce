"""The notebook's side: `%%nodetool`, `%nodetool`, the card, and `run` with its handle."""
