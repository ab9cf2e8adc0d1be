"""How the model moves to the domain: what a step minimises, what learns, and how gently."""
