"""What a finished or running training leaves for people to read: pictures and the model card."""
