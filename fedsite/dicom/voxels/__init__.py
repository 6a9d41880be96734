"""From stored bytes to values: decoding, in a process of its own, and rescaling."""
