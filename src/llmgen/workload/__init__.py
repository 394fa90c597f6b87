"""What is sent: classes, lengths and prompts, as spans of bytes."""
