"""Generated from proto/cotenant/v1 by `make proto`; never edited by hand."""
