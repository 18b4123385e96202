"""Files of llama.cpp: control vectors and adapters."""
