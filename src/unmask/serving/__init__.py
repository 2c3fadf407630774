"""Serving models: a page in which samples are watched, rewound and redrawn, an HTTP API, and pages of saved samples."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
