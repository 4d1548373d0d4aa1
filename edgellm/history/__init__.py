"""What sessions leave on the disk, and how they come back from there."""
