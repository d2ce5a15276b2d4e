"""What is done with weights that are, or stay, in memory. Torch is loaded only by what is used."""
