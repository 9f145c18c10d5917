"""Other APIs as thin translations of chat completions: OpenAI's Responses and Anthropic's Messages."""
