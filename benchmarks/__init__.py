"""Measures FTPS servers side by side on the loopback interface: see README.md."""
