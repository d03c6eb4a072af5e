"""Files: written atomically, read leniently, quoted, locked. Without torch."""
