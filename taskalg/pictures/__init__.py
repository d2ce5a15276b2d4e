"""Pictures of what was measured: a picture is one file here, and what all share is canvas.py."""
