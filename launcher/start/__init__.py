"""Starting processes and watching them. Torch is imported only to speak with torchrun."""
