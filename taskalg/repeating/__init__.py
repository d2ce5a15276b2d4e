"""An output again: made from its manifest once more, or held against it bit by bit."""
