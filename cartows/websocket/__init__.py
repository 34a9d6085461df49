"""WebSocket frames, the parser of what a client sends, and the close codes; pure values and bytes, usable on any thread."""
