"""Text and bytes from outside: written whole, read leniently."""
