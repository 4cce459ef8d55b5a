"""What a crosscoder's features say about the models: whose they are, when they came, and which ones matter."""
