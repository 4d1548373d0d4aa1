"""The verbs of the command line, one module each: `arguments(parser)` and `main(options)`.

Beside them, `options` has the options that several verbs share, `host` what those share that run a
model for conversations.
"""
