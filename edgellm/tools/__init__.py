"""Functions that devices declare: their schemas, and grammars that hold calls to them."""
