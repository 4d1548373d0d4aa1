"""The Metal backend over the fake, as a plugin: edgellm backend check tests/faked_metal.py"""

from __future__ import annotations

import fake_metal

from edgellm import hookimpl
from edgellm_backends.metal import MetalBackend, objc


@hookimpl
def edgellm_backend(device: str) -> MetalBackend | None:
    if device != "faked_metal":
        return None
    objc.LIBRARIES = (str(fake_metal.library().path),)
    return MetalBackend()
