"""adaptrun: take a pretrained model to a new domain, on one process or many."""

__version__ = "0.1.0"
