"""OpenAI's API, with the extensions of vLLM and llama.cpp: translation of requests and of the engine's events."""
