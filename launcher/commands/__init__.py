"""Starting processes and watching them; nothing here imports torch."""
