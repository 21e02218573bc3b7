"""SGLang. Its environment is one of its own, .venv-sglang; this package is imported in both."""
