"""Masked diffusion on discrete data: schedules, networks, objectives, samplers, codecs, and the model of them all.

Data `x` is tokens. `mask(x, t)` hides each token with probability `1 - alpha_t`. A network reads `x_t` and predicts
every hidden token. An objective turns the predictions into a bound on `-log p(x)`. A sampler starts from all masks and
reveals.

The public names are listed in `__init__.pyi`; each is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
