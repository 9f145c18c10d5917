"""The CUDA step: supported models, weights, kernel launches, graph capture and sampling."""
