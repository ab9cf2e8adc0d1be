"""What is saved: resumable training state, and the consolidated model folder."""
