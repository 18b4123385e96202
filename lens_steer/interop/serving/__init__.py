"""Serving engines that answer under plans folded into adapters, each certified against the hooks before its results."""
