"""Decoders that choose several tokens before the host looks at them."""
