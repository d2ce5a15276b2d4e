"""What did you write? Text becomes a tree of nodes; nodes become text again."""
