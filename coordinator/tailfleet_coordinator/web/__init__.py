"""HTTP: what boards and people may ask, and the server that runs it. The only room that knows FastAPI."""
