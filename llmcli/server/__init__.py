"""`llm serve`: a loaded model behind a socket, for this program's other commands and for clients of OpenAI's API."""
