"""Adapters, which are trained instead of all weights: one file per kind, and here the table of them."""

from __future__ import annotations

import importlib

from launcher.adapt.adapters.adapters import AdapterContext, Adapters
from launcher.job.sections.adapters import AnyAdapters
from launcher.models.weights.loading import Loaded

ADAPTERS = {"lora": "lora:add_lora", "rslora": "lora:add_lora", "dora": "lora:add_lora"}
"""Kind to module and function; a new one needs a file here, a line here and its name or section in
`job/sections/adapters.py`."""


def add_adapters(spec: AnyAdapters, loaded: Loaded, setting: AdapterContext) -> Adapters:
    """Add adapters to a loaded model, before an engine prepares it; only the file of their kind is imported."""
    module, _, name = ADAPTERS[spec.kind].partition(":")
    add = getattr(importlib.import_module(f"launcher.adapt.adapters.{module}"), name)
    added: Adapters = add(spec, loaded, setting)
    return added
