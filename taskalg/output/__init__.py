"""Where does it go? Arrays become a checkpoint that is published whole or not at all."""
