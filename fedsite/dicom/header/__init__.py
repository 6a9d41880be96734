"""From the bytes of one file to its frames: what its header says, in the words of the model."""
