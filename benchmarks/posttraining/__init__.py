"""Post-training compression measured: pretrained networks, lorank and its rivals, one budget."""
