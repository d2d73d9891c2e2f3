"""What the trainers of the recipes share: splits, the training loop, export, one recipe's files."""
