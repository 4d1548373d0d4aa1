"""The verbs of the command line, one module each: `arguments(parser)` and `main(options)`."""
