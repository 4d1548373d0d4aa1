"""Every extension point of edgellm: the plugin author's manual.

A plugin is a module with functions marked `@edgellm.hookimpl`, named in an entry-point group of its
kind: `edgellm.backends`, `edgellm.tokenizers`, `edgellm.samplers` or `edgellm.channels`. Only the
kinds that a command needs are imported. A hook that answers "who can do X?" returns `None` to
decline; the first other answer wins, later-registered plugins being asked first, so a plugin of
yours overrides a bundled one. Import drivers and other heavy modules inside the hook.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from edgellm.channel import Channel
    from edgellm.executor import Backend
    from edgellm.sampling import Filter, Sampling
    from edgellm.tokenizer import Tokenizer, TokenizerData

hookspec = pluggy.HookspecMarker("edgellm")
hookimpl = pluggy.HookimplMarker("edgellm")


class BackendHooks:
    """Group `edgellm.backends`: where the model's kernels run."""

    @hookspec(firstresult=True)
    def edgellm_backend(self, device: str) -> Backend | None:
        """Return the backend that runs models on `device` ("cpu", "opencl", …), or None.

        Called once when a model is loaded.
        """


class TokenizerHooks:
    """Group `edgellm.tokenizers`: text to token ids and back."""

    @hookspec(firstresult=True)
    def edgellm_tokenizer(self, data: TokenizerData) -> Tokenizer | None:
        """Return a tokenizer for a model file's vocabulary, or None if `data.model` isn't yours.

        Called once when a model or its tokenizer is loaded.
        """


class SamplerHooks:
    """Group `edgellm.samplers`: filters that reshape logits before a token is drawn."""

    @hookspec(firstresult=True)
    def edgellm_sampler(
        self, name: str, options: Sampling, tokenizer: Tokenizer | None
    ) -> Filter | None:
        """Return a new filter called `name`, set up from `options`, or None if it isn't yours.

        Called once a request for each name in `options.samplers`, in that order; `tokenizer` is
        None where the vocabulary isn't known.
        """


class ChannelHooks:
    """Group `edgellm.channels`: ways in for people and devices."""

    @hookspec(firstresult=True)
    def edgellm_channel(self, url: str) -> Channel | None:
        """Return the channel that serves `url`, or None if its scheme isn't yours.

        Called once a `--channel URL`; the channel opens its port only in `serve`.
        """


KINDS: dict[str, type] = {
    "backend": BackendHooks,
    "tokenizer": TokenizerHooks,
    "sampler": SamplerHooks,
    "channel": ChannelHooks,
}
